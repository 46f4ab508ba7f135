"""Reads items of a checkpoint, and tells damage, which is proven, from reads that failed for any other reason."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax import manifest

T = TypeVar("T")

_HANDLERS = {
    ocp.args.StandardRestore: ocp.StandardCheckpointHandler,
    ocp.args.JsonRestore: ocp.JsonCheckpointHandler,
}

# How TensorStore reports what says nothing about the files (absl::StatusCode).
_PASSING = (
    "CANCELLED",
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
)


def read(folder: epath.Path, **items: Any) -> dict[str, Any]:
    """The items of the checkpoint ``folder`` named by ``items`` (name -> Orbax's arguments), after checking their files
    against the manifest: each process checks a part of them.

    Raises, in all processes alike, Damaged if the files are proven to differ from what was saved, and OSError if they
    could not be read for any other reason, such as permissions, the network, memory or a time-out. Files without a
    manifest, from before there were any, are damaged if they can be read but not parsed.
    """
    part, parts = jax.process_index(), jax.process_count()
    checked = _agreed(folder, lambda: manifest.check(folder, items, part=part, parts=parts))
    return _agreed(folder, lambda: _restored(folder, items, checked))


def _agreed(folder: epath.Path, work: Callable[[], T]) -> T:
    """``work()``. If it fails in any process, it fails in all of them, for the same kind of reason."""
    result: T
    problem: Exception | None = None
    try:
        result = work()
    except Exception as error:
        problem = error
    kind = 0 if problem is None else 1 if isinstance(problem, manifest.Damaged) else 2
    worst = int(multihost_utils.process_allgather(np.array(kind)).max())
    if worst == 0:
        return result
    cause = "another process cannot read it" if problem is None else " ".join(str(problem).split())[:300]
    if worst == 1:
        raise manifest.Damaged(cause) from problem
    kind_of = "" if problem is None else f"{type(problem).__name__}: "
    raise OSError(
        f"checkpoint {folder} could not be read, which does not mean that it is damaged ({kind_of}{cause}); it is left "
        "as it is: run the same command again once the cause is gone"
    ) from problem


def _restored(folder: epath.Path, items: dict[str, Any], checked: bool) -> dict[str, Any]:
    """Reads on each process independently, so that one that fails does not leave the others waiting for it."""
    index = jax.process_index()
    independent = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    restored = {}
    for name, arguments in items.items():
        handler = _HANDLERS[type(arguments)](multiprocessing_options=independent)
        try:
            restored[name] = handler.restore(folder / name, args=arguments)
        except Exception as error:  # Orbax and TensorStore raise nothing narrower for an array cut short
            if checked or not _shows_damage(error):
                raise
            with contextlib.suppress(FileNotFoundError):
                manifest.read_all(folder / name)  # an OSError: Orbax may not have noticed that it cannot read a folder
            raise manifest.Damaged(f"{folder / name}: {error}") from error
        finally:
            handler.close()
    if not checked and restored.get("meta", {}).get("version", 0) >= manifest.SINCE:
        raise manifest.Damaged(f"{folder / manifest.NAME} is missing")
    return restored


def _shows_damage(error: BaseException | None) -> bool:
    """Whether an error in parsing files without a manifest is about their content."""
    while error is not None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and not missing):
            return False
        if any(f"{code}:" in str(error) for code in _PASSING):
            return False
        error = error.__cause__ or error.__context__
    return True
