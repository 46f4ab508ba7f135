"""A cache on disk for results that take long to make: made once, then found by later processes.

A folder is named by a digest of what its content is made from. One process of a host makes it while the others wait. It
is finished once it has ``meta.json``, which is written last. Or it is made in blocks, files that get their names once
they are complete; then only missing ones are made, and two processes that make the same block write the same file.

Indexes, items and lists of training images are made by ``load_or_make``. Decoded images and tags are blocks or files of
one writer, who takes the lock. Embeddings of frozen towers are blocks without a lock: the processes of a host meet in
collectives while they embed, so one that waited for a lock would stop all. Not here are copies of objects
(``staging.py``), each of which has a version of its own, and drawn worlds (``data/datasets.py``), which may be in a
store and are therefore under a lease.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.storage.locks import locked
from tfds_naturel.common.files import check_regular, read_regular

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

LOCK = "lock"  # in each folder
META = "meta.json"
DIGEST = 8  # bytes at the beginning of a block


class DamagedCopy(OSError):
    """A copy of something that differs from what was written: not a bad record, which others could replace."""


def folder_of(parent: Path, key: Any) -> Path:
    """The folder in ``parent`` for what is made from ``key``, which must be JSON-serializable."""
    return parent / hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()


def load_or_make(folder: Path, load: Callable[[], T | None], make: Callable[[], T]) -> T:
    """What ``load`` finds in ``folder``; if it returns None or raises FileNotFoundError, what ``make`` returns, having
    written it there.

    One process of a host makes it while the others wait; if the folder cannot be written, each makes its own. A signal
    ends the process at once (``preemption.interruptible``), also while it waits. Raises what either raises.
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
    """Describes what is in ``folder``. Written last, so its presence means that everything is there."""
    storage.write_json(epath.Path(folder / META), meta)


def read_meta(folder: Path) -> dict[str, Any]:
    """What ``write_meta`` wrote. Raises FileNotFoundError if it did not, UserError if it is damaged."""
    return storage.read_json(epath.Path(folder / META))


def files_in(folder: Path) -> list[Path]:
    """The files that ``folder`` is made of, by name, without leftovers of interrupted writes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if path.name not in (LOCK, META) and not path.name.startswith(".")]


def checksums(folder: Path) -> dict[str, str]:
    """The XXH3 of each of ``files_in``, by name."""
    return _checksums(files_in(folder))


def _checksums(paths: Sequence[Path]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:
        return dict(zip((path.name for path in paths), pool.map(checksum, paths), strict=True))


def checksum(path: Path) -> str:
    """The XXH3 of a file, in hex. Raises UserError for a pipe or device."""
    check_regular(path)
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def damaged(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """The names of files that are missing, or whose ``checksums`` are not as ``expected``."""
    found = _checksums([folder / name for name in expected if (folder / name).is_file()])
    return [name for name, checksum in expected.items() if found.get(name) != checksum]


def write_block(path: Path, content: bytes) -> None:
    """Writes a file that begins with the XXH3 of its ``content``, all of it or nothing."""
    storage.write(epath.Path(path), xxhash.xxh3_64_digest(content) + content)


def read_block(path: Path) -> bytes:
    """What ``write_block`` wrote. Raises ValueError if it is damaged, FileNotFoundError if there is none."""
    data = read_regular(path)
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
        _LOG.warning("%s; making it again", error)
        return False
    return True
