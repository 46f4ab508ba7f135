"""Orbax checkpoints: parameters, optimizer state, step, config and processor together.

``<workdir>/checkpoints/<step>/`` holds the items ``params``, ``optimizer``, ``ema`` (if a moving average is kept)
and ``meta`` (JSON: model sizes, processor, config, versions). The step number is also the data position.
"""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax import storage
from naturel_jax.data.processor import Processor
from naturel_jax.models.two_tower import TwoTowerConfig
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)

VERSION = 1  # of the meta item; version 0 had no version field and an older config (see config_versions.from_json)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of the packages that affect a run's numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


class Checkpoints:
    """Saves and restores the state of one run."""

    def __init__(self, workdir: epath.PathLike, *, keep: int):
        self.directory = directory(workdir)
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, step_prefix=None, create=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager

    def save(self, step: int, arrays: dict[str, Any], meta: dict[str, Any], *, wait: bool = False) -> None:
        """Saves the items ``arrays`` (trees) and ``meta`` in the background; ``wait`` blocks until all is on disk."""
        manager = self._open()
        if step not in manager.all_steps():
            items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
            manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)), force=True)
        if wait:
            manager.wait_until_finished()

    def restore(
        self, arrays: dict[str, Any], check: Callable[[dict[str, Any]], None]
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest readable checkpoint as (step, arrays, meta), its items sharded as given by the trees of
        ``jax.ShapeDtypeStruct`` in ``arrays``; None if there is no checkpoint.

        ``check(meta)`` should raise if the checkpoint belongs to a run that ``arrays`` do not fit. It is called before
        the arrays are read, so that another run's checkpoint is not mistaken for a damaged one. An unreadable
        checkpoint is logged and renamed to ``<step>.broken``, and the one before it is used. Raises UserError if there
        are checkpoints but none can be read.
        """
        steps = sorted(storage.numbered(self.directory), reverse=True)
        for step in steps:
            if (saved := self._read(step, meta=ocp.args.JsonRestore())) is None:
                continue
            check(saved["meta"])
            items = {name: ocp.args.StandardRestore(tree) for name, tree in arrays.items()}
            if (restored := self._read(step, **items)) is not None:
                return step, {name: restored[name] for name in arrays}, saved["meta"]
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.directory} can be read; start over with another --workdir"
            )
        return None

    def _read(self, step: int, **items: Any) -> Any:
        """The items; None if any process cannot read the checkpoint, which is then renamed to ``<step>.broken``."""
        path, restored, problem = self.directory / str(step), None, ""
        try:
            restored = restore_items(self.directory, step, **items)
        except Exception as error:  # Orbax and tensorstore raise nothing narrower for an array cut short
            problem = f"{type(error).__name__}: {error}"
        # All processes finish reading before one of them renames the folder.
        if multihost_utils.process_allgather(np.array(not problem)).all():
            return restored
        problem = problem or "another process cannot read it"
        _LOG.error("checkpoint %s cannot be read and is kept as %s.broken: %.300s", path, step, problem)
        if jax.process_index() == 0:
            path.rename(self.directory / f"{step}.broken")
        return None

    def close(self) -> None:
        """Waits for pending saves."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def restore_items(directory: epath.Path, step: int, **items: Any) -> Any:
    """Reads on each process independently, so that one that fails does not leave the others waiting for it."""
    index = jax.process_index()
    independent = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=independent)
    with ocp.CheckpointManager(directory, options=options) as manager:
        return manager.restore(step, args=ocp.args.Composite(**items))


def directory(workdir: epath.PathLike) -> epath.Path:
    """The folder of a run's checkpoints."""
    return epath.Path(workdir).absolute() / "checkpoints"


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Steps of a run's finished checkpoints, in ascending order."""
    return storage.numbered(directory(workdir))


def make_meta(
    config: dict[str, Any], model: TwoTowerConfig, processor: Processor, trained_on: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    """The metadata saved with the arrays. ``trained_on``: the items of each benchmark that the run trains on."""
    return {
        "version": VERSION,
        "used": trained_on or {},
        "config": config,
        "model": dataclasses.asdict(model),
        "processor": processor.to_dict(),
        "versions": versions(),
    }
