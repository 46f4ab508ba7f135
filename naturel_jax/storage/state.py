"""How the state of a run is written: atomic replacement, exclusive creation, appending.

Paths are ``etils.epath`` paths, on a disk or in an object store (``gs://``, ``s3://``); nothing here uses etils' own
access to object stores, which changes when TensorFlow is installed. Errors are those of the disk, or in a store, those
of ``object_stores.Location``.
"""

import contextlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash
from etils import epath

from naturel_jax.storage import scratch
from naturel_jax.storage.object_stores import ABSENT, Changed, Location, in_store
from tfds_naturel.common.errors import Unavailable, UserError
from tfds_naturel.common.files import check_regular, parse_json

SEAL = "xxh3_of_rest"  # the field with the checksum of the others

guards: dict[epath.Path, Callable[[], None]] = {}  # absolute folder -> what raises if this process lost its lease on it


def check_leases(path: epath.Path) -> None:
    """Raises LostLease if this process held a lease on a folder around ``path`` and has lost it to another."""
    for folder in absolute(path).parents:
        if folder in guards:
            guards[folder]()


@contextlib.contextmanager
def naming(path: epath.Path) -> Iterator[None]:
    """Adds ``path`` to the errors of reads and writes, which do not always name a file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextlib.contextmanager
def partial(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a path next to ``path`` for its new content, and removes that file at the end, if the disk allows."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with naming(path):
            yield new
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def write(path: epath.Path, content: str | bytes) -> None:
    """Atomically replaces the content of ``path``: readers see either the old content or the new, even after a crash.

    This and ``append`` raise what ``check_leases`` raises."""
    data = content.encode() if isinstance(content, str) else content
    if in_store(path):
        check_leases(path)
        Location(path).put(data)
        return
    with partial(path) as new:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check_leases(path)  # as late as possible: another process may take over at any moment
        new.replace(path)


def create(path: epath.Path, text: str) -> bool:
    """Creates ``path`` with ``text``; returns False, and changes nothing, if it already exists. If several processes
    try, with different texts, exactly one succeeds."""
    if in_store(path):
        with contextlib.suppress(Changed):
            Location(path).put(text.encode(), ABSENT)
            return True
        return False
    with partial(path) as new:
        new.write_text(text)
        try:
            os.link(new, path)  # unlike a rename, a link does not replace what is there
        except FileExistsError:
            return False
    return True


def append(path: epath.Path, text: str) -> None:
    """Adds ``text`` to the end of ``path``, normally in one write. On a disk, a failure may leave an incomplete last
    line. In an object store, the object is replaced by a longer one. Raises OSError for a link, which could lead out of
    a folder that came from elsewhere."""
    if in_store(path):
        _append_to_object(path, text.encode())
        return
    check_leases(path)
    data = memoryview(text.encode())
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            while data:  # write may take only a part, for example if the disk is almost full
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)


def _append_to_object(path: epath.Path, data: bytes) -> None:
    location = Location(path)
    while True:
        try:
            before, version = location.get()
        except FileNotFoundError:
            before, version = b"", ABSENT
        check_leases(path)  # each time: the other process may be the new owner
        with contextlib.suppress(Changed):  # another process has appended something
            location.put(before + data, version)
            return


def read(path: epath.Path) -> str:
    """The text in ``path``. Raises OSError, with the path, if it cannot be read, and UserError for a pipe or device."""
    if in_store(path):
        return Location(path).get()[0].decode()
    with naming(path):
        check_regular(Path(path))
        return path.read_text()


def sealed(fields: dict[str, Any], indent: int | None = None) -> str:
    """``fields`` as JSON, with their checksum, by which ``unsealed`` notices any that changed."""
    return json.dumps({**fields, SEAL: xxhash.xxh3_64_hexdigest(json.dumps(fields).encode())}, indent=indent)


def unsealed(value: Any) -> dict[str, Any]:
    """What was ``sealed``, from its parsed JSON. Raises ValueError if it is anything else, or was changed since."""
    if not isinstance(value, dict) or SEAL not in value:
        raise ValueError(f"damaged: it has no {SEAL!r}, the checksum of the rest")
    fields = {name: value[name] for name in value if name != SEAL}
    if sealed(fields) != json.dumps({**fields, SEAL: value[SEAL]}):
        raise ValueError(f"damaged or edited: its {SEAL!r} is not that of the rest")
    return fields


def write_json(path: epath.Path, fields: dict[str, Any]) -> None:
    """Writes ``fields`` as ``write`` does, sealed."""
    write(path, sealed(fields, indent=1))


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON in ``path``, unsealed. Raises UserError naming the file if it is damaged or not sealed JSON."""
    try:
        return unsealed(parse_json(read(path)))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); move it away to continue without it") from error


def read_json_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The JSON objects in ``path``, one per line, unsealed, each with a ``step``; [] if there is no such file. An
    incomplete last line is skipped: its write was interrupted. Raises UserError naming any other line that is not such
    an object, or damaged."""
    try:
        text = read(path)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path} line {number}: not UTF-8; remove the line to continue without it") from error
    rows, (*lines, last) = [], text.split("\n")  # not splitlines, for which a damaged end may be another
    lines += [last] if last[:-1].endswith("}") else []  # only its end is damaged
    for number, line in enumerate(lines, 1):
        try:
            row = unsealed(parse_json(line))
        except ValueError as error:
            raise UserError(
                f"{path} line {number}: not JSON ({error}); remove the line to continue without it"
            ) from error
        step = row.get("step")
        if not isinstance(step, int) or step.bit_length() > 63:
            raise UserError(
                f"{path} line {number}: {line.strip()!r:.80} is not a JSON object with a step; remove the line"
            )
        rows.append(row)
    return rows


def numbered(folder: epath.Path) -> list[int]:
    """The entries of ``folder`` whose names are whole numbers, in ascending order; [] if there is no such folder."""
    return sorted(int(name) for name in names(folder) if name.isascii() and name.isdigit())


def names(folder: epath.Path) -> list[str]:
    """The names in ``folder``, sorted; [] if there is no such folder. Raises OSError if it cannot be listed;
    epath's ``exists`` says no in that case too."""
    if in_store(folder):
        return Location(folder).names()
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def exists(path: epath.Path) -> bool:
    """Whether there is a file or folder ``path``. Raises what ``names`` raises."""
    return path.name in names(path.parent)


def delete(path: epath.Path) -> None:
    """Deletes the file ``path``, if there is one. Raises what ``check_leases`` raises."""
    check_leases(path)
    if in_store(path):
        Location(path).delete()
    else:
        path.unlink(missing_ok=True)


def absolute(path: epath.Path) -> epath.Path:
    """``path``, made absolute with the current directory if it is relative."""
    return path if in_store(path) else path.absolute()


def unused_name(path: epath.Path) -> str:
    """The name of ``path``, followed by ``-2``, ``-3``, ... if that name is taken."""
    used = names(path.parent)
    candidates = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    return next(name for name in candidates if name not in used)


def check_writable(folder: epath.Path, needed_bytes: int = 0, flag: str = "--workdir") -> None:
    """Creates ``folder``. Raises OSError if it is not writable or has fewer than ``needed_bytes`` free. For a folder in
    an object store, these are the bytes of the disk that a checkpoint is written to before it is uploaded."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        if in_store(folder):
            write(probe, b"\0" * 4096)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"\0" * 4096)
        delete(probe)
    except Unavailable:
        raise
    except OSError as error:
        raise OSError(
            f"{flag.strip('-')} {folder} cannot be written: {error.strerror or error}; choose another with {flag}"
        ) from error
    disk = scratch.root() if in_store(folder) else folder
    if (free := shutil.disk_usage(disk).free) < needed_bytes:
        raise OSError(
            f"{'workdir ' if disk == folder else ''}{disk} has {free / 1e9:.2f} GB free; a checkpoint needs about "
            f"{needed_bytes / 1e9:.2f} GB: free some space or choose another with "
            f"{'--workdir' if disk == folder else 'the environment variable XDG_CACHE_HOME'}"
        )
