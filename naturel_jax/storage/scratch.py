"""Folders on this machine: the cache of local copies, and temporary ones for transfers to and from object stores, which
are removed even if their process is killed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from naturel_jax.storage.locks import locked


def root() -> Path:
    """``naturel_jax`` in the user's cache folder (``XDG_CACHE_HOME``, or ``~/.cache``), created if it is missing."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naturel_jax"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new, empty folder that is removed at the end. Folders left by killed processes are removed first."""
    parent = root() / "scratch"
    parent.mkdir(exist_ok=True)
    path = parent / uuid.uuid4().hex
    lock = path.with_suffix(".lock")
    with locked(lock):
        for other in parent.glob("*.lock"):
            if other != lock:
                _remove_if_unused(other)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_if_unused(lock: Path) -> None:
    with contextlib.suppress(OSError), locked(lock, wait=False):
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink()
