"""Checkpoints with Orbax: parameters, optimizer, step, config and processor together.

``<workdir>/checkpoints/<step>/`` holds the items ``params``, ``optimizer``, ``ema`` (where a moving average is kept)
and ``meta`` (JSON: model sizes, processor, config, versions). The step number is the data position too.
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

VERSION = 1  # of the meta item; version 0 had no such field and an older config (see config_versions.from_json)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers."""
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
        """Saves the items ``arrays`` (trees) and ``meta`` in the background; ``wait`` returns when all is on disk."""
        manager = self._open()
        if step not in manager.all_steps():
            items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
            manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)), force=True)
        if wait:
            manager.wait_until_finished()

    def restore(
        self, arrays: dict[str, Any], check: Callable[[dict[str, Any]], None]
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest readable checkpoint as (step, arrays, meta), its items laid out as the given trees of
        ``jax.ShapeDtypeStruct`` with shardings say; None where there is none.

        ``check(meta)`` raises for the checkpoint of a run that ``arrays`` do not fit: before they are read, so that
        another run's checkpoint is not taken for a damaged one. A checkpoint that cannot be read is reported, set
        aside as ``<step>.broken``, and the one before is used. Raises ValueError when none of those present can be
        read.
        """
        steps = sorted(storage.numbered(self.directory), reverse=True)
        for step in steps:
            if (found := self._read(step, meta=ocp.args.JsonRestore())) is None:
                continue
            check(found["meta"])
            items = {name: ocp.args.StandardRestore(tree) for name, tree in arrays.items()}
            if (restored := self._read(step, **items)) is not None:
                return step, {name: restored[name] for name in arrays}, found["meta"]
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.directory} can be read; start over with another --workdir"
            )
        return None

    def _read(self, step: int, **items: Any) -> Any:
        """The items, or None for a checkpoint that some process cannot read and that is set aside."""
        path, found, problem = self.directory / str(step), None, ""
        try:
            found = restore_items(self.directory, step, **items)
        except Exception as error:  # Orbax and tensorstore raise nothing narrower for an array cut short
            problem = f"{type(error).__name__}: {error}"
        # Every process has done its reading before one of them moves the folder.
        if multihost_utils.process_allgather(np.array(not problem)).all():
            return found
        problem = problem or "another process cannot read it"
        _LOG.error("checkpoint %s cannot be read and is kept as %s.broken: %.300s", path, step, problem)
        if jax.process_index() == 0:
            path.rename(self.directory / f"{step}.broken")
        return None

    def close(self) -> None:
        """Waits for what is being saved."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None


def restore_items(directory: epath.Path, step: int, **items: Any) -> Any:
    """Each process reads by itself: one that fails must not leave the others waiting for it."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
    )
    options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
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
    """What is saved beside the arrays. ``trained_on``: the items of each benchmark that the run trains on."""
    return {
        "version": VERSION,
        "used": trained_on or {},
        "config": config,
        "model": dataclasses.asdict(model),
        "processor": processor.to_dict(),
        "versions": versions(),
    }
