"""Copies data from an object store to this host's disk, once for all of its processes.

A copy is in ``<cache_dir>/<scheme>/<bucket>/<path>``. A file gets its name once it has the size of the object, and its
MD5 if the store states one; an interrupted copy is resumed. ``.staged.jsonl`` in the folder of the bucket lists the
files and the version that each is a copy of. One process at a time, holding the lock on ``.lock``, copies to it.
"""

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from etils import epath

from naturel_jax.storage import object_folders, scratch
from naturel_jax.storage.locks import locked
from naturel_jax.storage.object_stores import Info, Location, in_store
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, parse_json
from tfds_naturel.common.progress import Progress

_LOG = logging.getLogger(__name__)


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
        staged = _Staged(bucket, local)
        staged.forget({name for name in staged.versions if wanted(name)} - found.keys())
        missing = {name: info for name, info in found.items() if not staged.is_current(name, info)}
        if missing:
            _copy(url, missing, local, staged, f"{len(found):,} files, {_size(found)}")
    return local


class _Staged:
    """The files of a bucket that were copied: name relative to ``local`` -> (version, modification time)."""

    def __init__(self, bucket: Path, local: Path):
        self._file, self._local, self._lock = bucket / ".staged.jsonl", local, threading.Lock()
        self._prefix = "" if local == bucket else f"{local.relative_to(bucket).as_posix()}/"
        self.versions: dict[str, tuple[str, int]] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            with contextlib.suppress(ValueError):  # cut short when a process was killed
                row = parse_json(line)
                if row["name"].startswith(self._prefix):
                    self.versions[row["name"].removeprefix(self._prefix)] = (row["version"], row["time"])
        self.versions = {name: version for name, version in self.versions.items() if version[0]}

    def record(self, name: str, version: str) -> None:
        """Notes that a file is a copy of ``version``."""
        self._write(name, version, object_folders.inside(self._local, name).stat().st_mtime_ns)

    def forget(self, names: set[str]) -> None:
        """Deletes copies whose objects no longer exist."""
        for name in names:
            object_folders.inside(self._local, name).unlink(missing_ok=True)
            self._write(name, "", 0)

    def is_current(self, name: str, info: Info) -> bool:
        """Whether the file is a copy of the object. One that is not listed is compared with the object's MD5."""
        path = object_folders.inside(self._local, name)
        if not path.is_file() or path.stat().st_size != info.size:
            return False
        if self.versions.get(name) == (info.etag, path.stat().st_mtime_ns):
            return True
        if not info.md5 or md5_of(path) != info.md5:
            return False
        self.record(name, info.etag)
        return True

    def _write(self, name: str, version: str, modified: int) -> None:
        row = {"name": self._prefix + name, "version": version, "time": modified}
        with self._lock, self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")


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
