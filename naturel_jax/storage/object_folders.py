"""Copies folders between an object store and a disk, moves and removes them, several objects at a time."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from etils import epath

from naturel_jax.storage import scratch, state
from naturel_jax.storage.object_stores import Info, Location, in_store
from tfds_naturel.common.errors import UserError

_THREADS = 8


def upload(files: Iterable[str], folder: Path, target: epath.Path, last: str = "") -> None:
    """Uploads ``files``, by their names relative to ``folder``; the file ``last`` after all others."""
    in_threads(lambda name: Location(target / name).upload(folder / name), [name for name in files if name != last])
    if last:
        Location(target / last).upload(folder / last)


def files_in(folder: Path) -> list[str]:
    """The files in ``folder`` and below, by their names relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def remove(folder: epath.Path, first: str) -> None:
    """Deletes what is in ``folder``, the object ``first`` before all others, so that it never exists without them. The
    lease is checked before each, after the listing: what a later owner writes is not in it. Raises LostLease."""
    names = list(Location(folder).objects())
    if first in names:
        state.delete(folder / first)
    in_threads(lambda name: state.delete(folder / name), names)


def move(folder: epath.Path, target: epath.Path, first: str) -> None:
    """Renames a folder; the object ``first`` is the first to be deleted."""
    in_threads(lambda name: Location(folder / name).copy(Location(target / name)), Location(folder).objects())
    remove(folder, first)


def download(folder: epath.Path, objects: Mapping[str, Info], local: Path) -> None:
    """Downloads ``objects`` of ``folder`` to ``local``. Raises OSError if the disk has too little space."""
    check_space(local, sum(info.size for info in objects.values()), os.fspath(folder))

    def fetch(name: str) -> None:
        path = inside(local, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Location(folder / name).download(path, objects[name])

    in_threads(fetch, objects)


@contextlib.contextmanager
def written_locally(folder: epath.Path) -> Iterator[Path]:
    """Yields ``folder``, or, if it is in a store, a scratch folder whose files are uploaded at the end, even after an
    error."""
    if not in_store(folder):
        yield Path(folder)
        return
    with scratch.folder() as local:
        try:
            yield local
        finally:
            upload(files_in(local), local, folder)


@contextlib.contextmanager
def made_locally(path: epath.Path) -> Iterator[Path]:
    """Yields ``path``, or, if it is in a store, a path of that name in a scratch folder, for ``publish`` to upload."""
    if not in_store(path):
        yield Path(path)
        return
    with scratch.folder() as folder:
        yield folder / path.name


def publish(local: Path, path: epath.Path, last: str = "") -> None:
    """Uploads the file or folder ``local`` to ``path``, if that is in a store; the file ``last`` of a folder after all
    others."""
    if not in_store(path):
        return
    if local.is_dir():
        upload(files_in(local), local, path, last)
    else:
        Location(path).upload(local)


def check_space(local: Path, needed: int, what: str) -> None:
    """Raises OSError if the disk of ``local`` has fewer than ``needed`` bytes free."""
    if (free := shutil.disk_usage(local).free) < needed:
        raise OSError(
            f"{what}: {needed:,} bytes are to be written to {local}, which has {free:,} free; free some, or choose "
            "another disk with config.data.cache_dir (for data) or XDG_CACHE_HOME in the environment (for all)"
        )


def inside(local: Path, name: str) -> Path:
    """The path of the object ``name`` in the folder ``local``. Raises UserError if that leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or str(path) != name:
        raise UserError(f"object {name!r:.120} is not the name of a file in a folder; rename it")
    return local / path


def in_threads(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls ``work(name)`` for all; after a failure, calls that have not begun are skipped."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, names))  # it cancels the others when one fails
