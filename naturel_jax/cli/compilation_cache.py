"""Keeps compiled programs from one run to the next."""

import logging
import os
from pathlib import Path

import jax

from naturel_jax.storage import scratch

_LOG = logging.getLogger(__name__)

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_MAX_BYTES = 4 * 2**30  # beyond it, JAX evicts the least recently used programs
_GROUP_OR_OTHERS_WRITE, _OTHERS_WRITE = 0o022, 0o002  # permission bits


def enable() -> None:
    """Makes JAX keep compiled programs in ``compiled`` in the user's cache folder, unless the environment names another
    folder (or none, by an empty ``JAX_COMPILATION_CACHE_DIR``).

    JAX runs whatever the folder holds, so a folder that others own or can write to is not used, with a warning. Nothing
    is cached on a CPU: XLA compiles for the exact processor, which is not part of the cache key, and different kinds of
    machines may share a home directory.
    """
    if _VARIABLE in os.environ or jax.default_backend() == "cpu":
        return
    folder = scratch.root() / "compiled"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    # With umask 002, new folders are writable for the group, which on such systems is the user alone.
    checked = {folder: _GROUP_OR_OTHERS_WRITE, folder.parent: _OTHERS_WRITE}
    if unsafe := [path for path, forbidden in checked.items() if not _is_own(path, forbidden)]:
        _LOG.warning(
            "compiled programs are not kept: others can write to %s. Run `chmod go-w` on it if it is yours, or set %s",
            unsafe[0],
            _VARIABLE,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)


def _is_own(folder: Path, forbidden: int) -> bool:
    """Whether the folder belongs to the user and has none of the ``forbidden`` permissions."""
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & forbidden
