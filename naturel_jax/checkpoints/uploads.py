"""Saves checkpoints to an object store: Orbax writes to a scratch folder, which is uploaded, the manifest last.

A checkpoint exists in the store if it has a manifest. Orbax itself could write to ``gs://`` only, with three other
clients of the store (etils, TensorStore and Google's) that each have their own credentials, retries and limits.
"""

import functools
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax import storage
from naturel_jax.checkpoints import manifest
from naturel_jax.checkpoints.kept import Kept
from naturel_jax.checkpoints.restore import make_handler
from naturel_jax.storage import object_folders, scratch
from naturel_jax.storage.object_stores import ABSENT, PART, Location
from tfds_naturel.common.errors import Unavailable


class Uploads:
    """Saves the checkpoints of one run in ``directory``, and removes those that are not ``kept``. All processes call
    ``save``; the first one has the disk space and uploads."""

    def __init__(self, directory: epath.Path, kept: Kept):
        self._directory, self._kept = directory, kept
        self._pool, self._pending = ThreadPoolExecutor(1), Future[None]()
        self._pending.set_result(None)

    def save(self, step: int, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        """Copies the arrays to the memory of the first process; the rest happens in the background.

        Raises what the save before it raised."""
        self.wait()
        items: dict[str, Any] = {name: ocp.args.StandardSave(_on_first_process(tree)) for name, tree in arrays.items()}
        if jax.process_index() == 0:
            self._pending = self._pool.submit(self._save, step, items | {"meta": ocp.args.JsonSave(meta)})

    def wait(self) -> None:
        """Waits until the save in progress is complete. Raises what it raised; the other processes raise an error of
        the same kind."""
        problem = self._pending.exception() if jax.process_index() == 0 else None
        kind = 0 if problem is None else 2 if isinstance(problem, Unavailable) else 1
        kind = int(multihost_utils.broadcast_one_to_all(np.array(kind)))
        if kind and problem is None:
            problem = (Unavailable if kind == 2 else OSError)("the first process could not save; see its error")
        self._pending = Future()
        self._pending.set_result(None)
        if problem is not None:
            raise problem

    def close(self) -> None:
        """Waits for the save in progress, on the process that uploads, and ends. Raises what the save raised."""
        self._pool.shutdown()
        self._pending.result()

    def _save(self, step: int, items: dict[str, Any]) -> None:
        with scratch.folder() as folder:
            for name, arguments in items.items():
                (folder / name).mkdir()
                handler = make_handler(arguments)
                handler.save(epath.Path(folder / name), args=arguments)
                handler.finalize(epath.Path(folder / name))
                handler.close()
            manifest.write(epath.Path(folder))
            self._remove(set(complete(self._directory)) - {step})  # also what is left of interrupted uploads
            target, files = self._directory / str(step), object_folders.files_in(folder)
            upload = functools.partial(_upload, folder, target)
            object_folders.in_threads(upload, [name for name in files if name != manifest.NAME])
            upload(manifest.NAME)
        self._remove(self._kept.steps(complete(self._directory)))

    def _remove(self, kept: Collection[int]) -> None:
        """Removes all steps but those ``kept``."""
        for step in set(storage.numbered(self._directory)) - set(kept):
            object_folders.remove(self._directory / str(step), first=manifest.NAME)


def complete(directory: epath.Path) -> list[int]:
    """Steps of the complete checkpoints in ``directory``, in ascending order."""
    return [step for step in storage.numbered(directory) if manifest.NAME in storage.names(directory / str(step))]


def _upload(folder: Path, target: epath.Path, name: str) -> None:
    """Uploads a file of a checkpoint, and replaces none: a process that was paused goes on with the file that it was
    at, and the checkpoint may be another owner's by then. Larger files have random names, which no two owners share."""
    storage.check_leases(target)
    if (path := folder / name).stat().st_size > PART:
        Location(target / name).upload(path)
    else:
        Location(target / name).put(path.read_bytes(), ABSENT)


def _on_first_process(tree: Any) -> Any:
    """The arrays of ``tree`` as NumPy arrays, complete on the first process. One array is in flight at a time."""

    def gathered(x: jax.Array) -> np.ndarray:
        local = x.addressable_data(0) if x.is_fully_replicated else x
        if not local.is_fully_addressable:
            local = multihost_utils.process_allgather(local, tiled=True)
        # A copy: the next step reuses the memory of its arguments.
        return np.array(local) if jax.process_index() == 0 else np.empty(0)

    return jax.tree.map(gathered, tree)
