"""Reads items of a checkpoint, telling proven damage from reads that failed for any other reason; explains saves that
failed."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax.checkpoints import manifest
from naturel_jax.storage import object_folders, scratch
from naturel_jax.storage.object_stores import Location, in_store
from tfds_naturel.common.errors import Unavailable, UserError

T = TypeVar("T")

_HANDLERS = {
    ocp.args.StandardSave: ocp.StandardCheckpointHandler,
    ocp.args.StandardRestore: ocp.StandardCheckpointHandler,
    ocp.args.JsonSave: ocp.JsonCheckpointHandler,
    ocp.args.JsonRestore: ocp.JsonCheckpointHandler,
}


def read(folder: epath.Path, **items: Any) -> dict[str, Any]:
    """The items of the checkpoint ``folder`` named by ``items`` (name -> Orbax's arguments), after checking their files
    against the manifest: each process checks a part of them.

    Raises, in all processes alike, Damaged if the files are proven to differ from what was saved, and OSError if they
    could not be read for any other reason, such as permissions, the network, memory or a time-out. From an object
    store, each process downloads the items to a scratch folder first, and checks all of them.
    """
    if in_store(folder):
        with scratch.folder() as local:
            _agreed(folder, lambda: _download(folder, items, local))
            _agreed(folder, lambda: manifest.check(epath.Path(local), items))
            return _agreed(folder, lambda: _restored(epath.Path(local), items))
    part, parts = jax.process_index(), jax.process_count()
    _agreed(folder, lambda: manifest.check(folder, items, part=part, parts=parts))
    return _agreed(folder, lambda: _restored(folder, items))


def _download(folder: epath.Path, items: Collection[str], local: Path) -> None:
    wanted = {*items, manifest.NAME}
    found = {name: info for name, info in Location(folder).objects().items() if name.partition("/")[0] in wanted}
    if manifest.NAME not in found:
        raise FileNotFoundError(f"{folder / manifest.NAME} is missing")
    object_folders.download(folder, found, local)


def _agreed(folder: epath.Path, work: Callable[[], T]) -> T:
    """``work()``. If it fails in any process, it fails in all of them, for the same kind of reason."""
    result: T
    problem: Exception | None = None
    try:
        result = work()
    except Exception as error:
        problem = error
    kind = 0
    if problem is not None:
        kind = 1 if isinstance(problem, manifest.Damaged) else 3 if isinstance(problem, Unavailable) else 2
    worst = int(multihost_utils.process_allgather(np.array(kind)).max())
    if worst == 0:
        return result
    cause = "another process cannot read it" if problem is None else " ".join(str(problem).split())[:300]
    if worst == 1:
        raise manifest.Damaged(cause) from problem
    if worst == 3:
        raise Unavailable(cause) from problem
    kind_of = "" if problem is None else f"{type(problem).__name__}: "
    raise OSError(
        f"checkpoint {folder} could not be read, which does not mean that it is damaged ({kind_of}{cause}); it is left "
        "as it is: run the same command again once the cause is gone"
    ) from problem


def make_handler(arguments: Any) -> Any:
    """Orbax's handler for these arguments of an item. It works on this process alone, so that one that fails does not
    leave the others waiting for it."""
    index = jax.process_index()
    independent = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    return _HANDLERS[type(arguments)](multiprocessing_options=independent)


def _restored(folder: epath.Path, items: dict[str, Any]) -> dict[str, Any]:
    restored = {}
    for name, arguments in items.items():
        with contextlib.closing(make_handler(arguments)) as handler:
            restored[name] = handler.restore(folder / name, args=arguments)
    return restored


@contextlib.contextmanager
def failures_explained(directory: epath.Path) -> Iterator[None]:
    """Raises OSError, in one line, for what Orbax and TensorStore raise if they cannot write a checkpoint."""
    try:
        yield
    except (UserError, Unavailable):  # UserError: a lost lease
        raise
    except (OSError, ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise OSError(
            f"a checkpoint could not be saved in {directory} ({type(error).__name__}: {cause}); those before it are "
            "left as they are: run the same command again once the cause is gone"
        ) from error
