"""What is made once, kept on disk and found again by later processes, because making it takes long.

A folder is named by what its content is made from, so another content has another folder. One process of a host makes
it while the others wait. It is finished once it has ``meta.json``, which is written last; or it is made in blocks, each
a file that is whole once it has its name, of which those that are missing are made.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.storage.locks import locked

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

LOCK = "lock"  # in each folder
META = "meta.json"
DIGEST = 8  # bytes at the beginning of a block


def folder_of(parent: Path, key: Any) -> Path:
    """The folder in ``parent`` of what is made from ``key``, which JSON can hold."""
    return parent / hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()


def load_or_make(folder: Path, load: Callable[[], T | None], make: Callable[[], T]) -> T:
    """What ``load`` finds in ``folder``; if it returns None or raises FileNotFoundError, what ``make`` returns, which
    it also writes there.

    Of the processes of a host, one makes it while the others wait; if the folder cannot be written, each makes its own.
    A signal ends the process at once (``preemption.interruptible``), while it waits too. Raises what both raise.
    """
    from naturel_jax.devices import preemption  # it loads JAX, which naturel-mine --help does not need

    def find() -> T | None:
        with contextlib.suppress(FileNotFoundError):
            return load()
        return None

    with preemption.interruptible(), contextlib.ExitStack() as stack:
        found = find()
        if found is None:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / LOCK))
            found = find()
        return make() if found is None else found


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Describes what is in ``folder``; written last, it says that all is there."""
    storage.write(epath.Path(folder / META), json.dumps(meta, indent=1))


def read_meta(folder: Path) -> dict[str, Any]:
    """What ``write_meta`` wrote. Raises FileNotFoundError if it did not, UserError if it is damaged."""
    return storage.read_json(epath.Path(folder / META))


def files_in(folder: Path) -> list[Path]:
    """The files that ``folder`` is made of, by name, without those that a write left behind that was interrupted."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if path.name not in (LOCK, META) and not path.name.startswith(".")]


def checksums(folder: Path) -> dict[str, str]:
    """The XXH3 of each of ``files_in``, by name."""
    return {path.name: xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in files_in(folder)}


def write_block(path: Path, content: bytes) -> None:
    """Writes a file that begins with the XXH3 of its ``content``, all of it or nothing."""
    storage.write(epath.Path(path), xxhash.xxh3_64_digest(content) + content)


def read_block(path: Path) -> bytes:
    """What ``write_block`` wrote. Raises ValueError if it is damaged, FileNotFoundError if there is none."""
    data = path.read_bytes()
    if xxhash.xxh3_64_digest(data[DIGEST:]) != data[:DIGEST]:
        raise ValueError(f"{path} is damaged: it does not have its checksum")
    return data[DIGEST:]


def is_whole(read: Callable[..., object], *place: Any) -> bool:
    """Whether ``read(*place)`` finds a block. One that is damaged (ValueError) is logged."""
    try:
        read(*place)
    except FileNotFoundError:
        return False
    except ValueError as error:
        _LOG.warning("%s; it is made again", error)
        return False
    return True
