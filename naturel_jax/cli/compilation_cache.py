"""Keeps compiled programs from one run to the next."""

import logging
import os
from pathlib import Path

import jax

from naturel_jax.storage import scratch

_LOG = logging.getLogger(__name__)

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_LARGEST = 4 * 2**30  # bytes; JAX then removes the programs that were used least recently
_OTHERS_WRITE, _ALL_WRITE = 0o022, 0o002  # permissions of group and others, and of others alone


def enable() -> None:
    """Makes JAX keep compiled programs in ``compiled`` in the user's cache folder, unless the environment names another
    folder (or none, by an empty ``JAX_COMPILATION_CACHE_DIR``).

    JAX runs what the folder holds, so one that others own or may write to is not used, with a warning. On a CPU
    nothing is kept: XLA compiles for the very processor, which the name of a kept program does not tell, and a home
    may be shared by several kinds of machines.
    """
    if _VARIABLE in os.environ or jax.default_backend() == "cpu":
        return
    folder = scratch.root() / "compiled"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    # With umask 002, new folders are writable for the group, which on such systems is the user alone.
    checked = {folder: _OTHERS_WRITE, folder.parent: _ALL_WRITE}
    if unsafe := [path for path, forbidden in checked.items() if not _is_own(path, forbidden)]:
        _LOG.warning(
            "compiled programs are not kept: others can write to %s. Run `chmod go-w` on it if it is yours, or set %s",
            unsafe[0],
            _VARIABLE,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)


def _is_own(folder: Path, forbidden: int) -> bool:
    """Whether the folder belongs to the user and has none of the ``forbidden`` permissions."""
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & forbidden
