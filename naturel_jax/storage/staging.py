"""Copies data from an object store to this host's disk, once for all of its processes.

A copy is in ``<cache_dir>/<scheme>/<bucket>/<path>``. A file gets its name once it has the size of the object, and its
MD5 if the store states one; an interrupted copy is resumed. ``.staged.jsonl`` in the folder of the bucket lists the
files, the version that each is a copy of, and the XXH3 of its blocks, which every process compares when it first asks
for the file: a copy that was damaged on the disk is made again. One process at a time, holding the lock on ``.lock``,
copies to it.
"""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from etils import epath

from naturel_jax.storage import blocks, object_folders, scratch
from naturel_jax.storage.locks import locked
from naturel_jax.storage.object_stores import Info, Location, in_store
from naturel_jax.storage.state import sealed, unsealed
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, parse_json
from tfds_naturel.common.progress import Progress

_LOG = logging.getLogger(__name__)

_LIST = ".staged.jsonl"
_checked = set[tuple[Path, int]]()  # files and their modification times whose checksums this process has compared


def local_path(source: str | os.PathLike[str], cache_dir: str = "") -> Path:
    """Where the copy of ``source`` is, or would be; ``source`` itself if it is on a disk. ``cache_dir`` defaults to the
    user's cache folder."""
    if not in_store(source):
        return Path(source).expanduser()
    scheme, _, rest = os.fspath(source).rstrip("/").partition("://")
    return object_folders.inside(root(cache_dir) / scheme, rest)


def root(cache_dir: str = "") -> Path:
    """The folder of this host's copies of data: ``cache_dir``, or one in the user's cache folder."""
    return Path(cache_dir).expanduser() if cache_dir else scratch.root() / "data"


def stage(
    source: str | os.PathLike[str], cache_dir: str = "", wanted: Callable[[str], bool] = lambda name: True
) -> Path:
    """Copies the objects in the folder ``source`` whose names relative to it are ``wanted`` and that have changed since
    they were copied; returns the local folder. A folder on a disk is returned as it is.

    Raises UserError if there are none, OSError if the disk has too little space or a file arrives damaged twice, and
    Unavailable if the store fails for too long.
    """
    if not in_store(source):
        return Path(source).expanduser()

    def find() -> dict[str, Info]:
        found = {name: info for name, info in Location(source).objects().items() if wanted(name)}
        if not found:
            raise UserError(f"{source}: no such folder in the store, or none of its objects is of use here")
        return found

    return _stage(source, cache_dir, wanted, find)


def stage_file(source: str | os.PathLike[str], cache_dir: str = "") -> Path:
    """Copies one object as ``stage`` does; returns the local file. One on a disk is returned as it is.

    Raises FileNotFoundError if there is no such object, and what ``stage`` raises."""
    if not in_store(source):
        return Path(source).expanduser()
    folder, _, name = os.fspath(source).rpartition("/")
    if not (name and Location(source).name):
        raise UserError(f"{source}: names no object; expected a file in a bucket")
    return _stage(folder, cache_dir, name.__eq__, lambda: {name: Location(source).info()}) / name


def _stage(
    source: str | os.PathLike[str],
    cache_dir: str,
    wanted: Callable[[str], bool],
    find: Callable[[], dict[str, Info]],
) -> Path:
    """Makes the ``wanted`` part of a folder's copy equal to what ``find`` returns."""
    local, url = local_path(source, cache_dir), epath.Path(source)
    bucket = local_path("/".join(os.fspath(url).split("/")[:3]), cache_dir)
    local.mkdir(parents=True, exist_ok=True)
    from naturel_jax.devices import preemption  # it loads JAX, which commands that read local files only do not need

    with preemption.interruptible(), locked(bucket / ".lock"):
        found = find()
        if local == bucket and (ours := sorted(found.keys() & {".lock", _LIST})):
            raise UserError(f"{url}: an object is called {ours[0]!r}, as a file of the copy is: rename it")
        staged = _Staged(bucket, local)
        staged.forget({name for name in staged.versions if wanted(name)} - found.keys())
        current = [name for name, info in found.items() if staged.is_current(name, info)]
        sound = set(current) - staged.damaged(current)
        missing = {name: info for name, info in found.items() if name not in sound}
        if missing:
            _copy(url, missing, local, staged, f"{len(found):,} files, {_size(found)}")
    return local


class _Copy(NamedTuple):
    """A file that was copied: the version of its object, its modification time, and the XXH3 of its blocks."""

    version: str
    time: int
    xxh3: list[str]


class _Staged:
    """The files of a bucket that were copied, by their names relative to ``local``."""

    def __init__(self, bucket: Path, local: Path):
        self._file, self._local, self._lock = bucket / _LIST, local, threading.Lock()
        self._prefix = "" if local == bucket else f"{local.relative_to(bucket).as_posix()}/"
        self.versions: dict[str, _Copy] = {}
        for line in self._file.read_text(errors="replace").splitlines() if self._file.exists() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short by a kill, or damaged
                row = unsealed(parse_json(line))
                if row["name"].startswith(self._prefix):
                    copy = _Copy(row["version"], row["time"], row["xxh3"])
                    self.versions[row["name"].removeprefix(self._prefix)] = copy
        self.versions = {name: copy for name, copy in self.versions.items() if copy.version}

    def record(self, name: str, version: str) -> None:
        """Notes that a file is a copy of ``version``, as it is now."""
        path, status = self._path(name), self._path(name).stat()
        copy = _Copy(version, status.st_mtime_ns, blocks.checksums(blocks.of_file(path, status.st_size)))
        _checked.add((path, copy.time))
        self._write(name, copy)

    def forget(self, names: set[str]) -> None:
        """Deletes copies whose objects no longer exist."""
        for name in names:
            self._path(name).unlink(missing_ok=True)
            self._write(name, _Copy("", 0, []))

    def is_current(self, name: str, info: Info) -> bool:
        """Whether the file is a copy of the object, by its version. One that is not listed is compared with the
        object's MD5."""
        path, copy = self._path(name), self.versions.get(name)
        if not path.is_file() or path.stat().st_size != info.size:
            return False
        if copy and copy[:2] == (info.etag, path.stat().st_mtime_ns):
            return True
        if not info.md5 or md5_of(path) != info.md5:
            return False
        self.record(name, info.etag)
        return True

    def damaged(self, names: Collection[str]) -> set[str]:
        """Names of those current files that do not have the checksums that they had when they arrived."""
        expected = list[tuple[str, blocks.Block, str]]()
        for name in names:
            path, copy = self._path(name), self.versions[name]
            if (path, copy.time) not in _checked:
                parts = blocks.of_file(path, path.stat().st_size)
                expected += [(name, *of_part) for of_part in zip(parts, copy.xxh3, strict=True)]
        found = blocks.checksums([block for _, block, _ in expected])
        wrong = {name for (name, _, checksum), other in zip(expected, found, strict=True) if other != checksum}
        for name in wrong:
            _LOG.warning("%s: the copy is damaged; it is copied again", self._path(name))
        _checked.update((self._path(name), self.versions[name].time) for name in {*names} - wrong)
        return wrong

    def _path(self, name: str) -> Path:
        return object_folders.inside(self._local, name)

    def _write(self, name: str, copy: _Copy) -> None:
        self.versions[name] = copy
        row = sealed({"name": self._prefix + name, **copy._asdict()})
        with self._lock, self._file.open("a") as file:
            file.write(row + "\n")


def _copy(url: epath.Path, missing: dict[str, Info], local: Path, staged: _Staged, whole: str) -> None:
    partial = {name: _partial(local, name, info) for name, info in missing.items()}
    left = {name: info for name, info in missing.items() if not partial[name].exists()}
    resumed = sum(path.stat().st_size for path in partial.values() if path.exists())
    total = sum(info.size for info in missing.values())
    object_folders.check_space(local, total - resumed, os.fspath(url))
    _LOG.info(
        "%s: %s; copying %d files, %s, to %s%s", url, whole, len(missing), _size(missing), local,
        f" ({len(missing) - len(left)} were interrupted)" if resumed else "",
    )  # fmt: skip
    with Progress(total=total, initial=resumed, desc=str(url), unit="B", unit_scale=True) as bar:
        opaque = threading.Event()  # set once an ETag is known not to be the MD5 that it looks like
        lock = threading.Lock()

        def progress(received: int) -> None:
            with lock:
                bar.update(received)

        def fetch(name: str) -> None:
            path, info, location = object_folders.inside(local, name), missing[name], Location(url / name)
            path.parent.mkdir(parents=True, exist_ok=True)
            accepted = {info.md5}
            for _ in range(2):
                location.download(partial[name], info, progress)
                found = md5_of(partial[name]) if info.md5 and not opaque.is_set() else info.md5
                if found in accepted:
                    if found != info.md5:
                        opaque.set()
                    partial[name].replace(path)
                    staged.record(name, info.etag)
                    return
                accepted.add(found)  # what arrives twice is taken for the content
                partial[name].unlink()
            raise OSError(f"{url / name}: arrived twice with different content, neither with the MD5 {info.md5}")

        object_folders.in_threads(fetch, missing)


def _partial(local: Path, name: str, info: Info) -> Path:
    """The file for an unfinished copy, of this version only: the rest of another would not fit."""
    path = object_folders.inside(local, name)
    return path.with_name(f".{path.name}.{re.sub(r'[^A-Za-z0-9-]', '', info.etag)}.partial")


def _size(files: dict[str, Info]) -> str:
    return f"{sum(info.size for info in files.values()):,} bytes"
