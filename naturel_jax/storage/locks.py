"""Locks between the processes of a host. When a process ends, however it does, the system releases its locks."""

import contextlib
import logging
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], wait: bool = True) -> Iterator[None]:
    """Holds the lock on the file ``path``, so that one process at a time runs the block; others wait, and say so. The
    file is created if it is missing, and stays.

    Raises BlockingIOError if another process holds it and ``wait`` is false, and OSError if it cannot be written.
    """
    lock = FileLock(path)
    try:
        held = lock.acquire(blocking=False)
    except Timeout as error:
        if not wait:
            raise BlockingIOError(f"{os.fspath(path)} is locked by another process") from error
        _LOG.info("waiting for another process of this host, which holds %s", path)
        from naturel_jax.devices import preemption  # loads JAX, which many commands do not need

        with preemption.interruptible():  # the same command waits again
            held = lock.acquire()
    with held:
        yield
