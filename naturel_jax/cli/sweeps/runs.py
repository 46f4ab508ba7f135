"""Trains the runs of a sweep, or this process's share of them, one after another."""

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import finished
from naturel_jax.cli.sweeps.grids import Planned
from naturel_jax.training.run import Watch, run
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

PRUNED, FAILED = "pruned.json", "failed.json"  # in the folder of a run

FINISHED = "finished"


class Pruned(Exception):
    """A run is not worth finishing: its score after ``step`` steps."""

    def __init__(self, step: int, score: float):
        super().__init__(f"pruned at step {step}, where its score was {score:.3f}")
        self.step, self.score = step, score


def environments(jobs: int) -> list[dict[str, str]]:
    """For each of the processes that run at once, the GPUs that it sees; nothing on a machine without NVIDIA GPUs, or
    if ``CUDA_VISIBLE_DEVICES`` hides all. Raises UserError if there are fewer GPUs than processes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        gpus = list(map(str, range(len(glob.glob("/proc/driver/nvidia/gpus/*")))))
    else:
        gpus = [gpu for gpu in named.split(",") if gpu not in ("", "-1")]
    if gpus and jobs > len(gpus):
        raise UserError(f"--jobs {jobs}: there are {len(gpus)} GPUs, and each run needs one of its own")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[job::jobs])} if gpus else {} for job in range(jobs)]


def train(planned: Planned, out: Path, watch: Watch = lambda step, scores: None) -> None:
    """Trains a run, or continues it, unless it is finished or pruned. A run that fails, or that another process trains,
    does not end the sweep. Raises Stopped."""
    folder = epath.Path(out / planned.key)
    if storage.exists(folder / PRUNED):
        return
    storage.delete(folder / FAILED)
    try:
        run(planned.config, folder, watch)
    except Pruned as pruned:
        storage.write_json(folder / PRUNED, {"step": pruned.step, "score": pruned.score})
        _LOG.info("%s: %s", planned.key, pruned)
    except (storage.InUse, storage.LostLease) as error:
        _LOG.warning("%s is left to another process: %s", planned.key, error)
    except UserError as error:
        storage.write_json(folder / FAILED, {"error": str(error)})
        _LOG.error("%s failed: %s", planned.key, error)


def state(planned: Planned, out: Path) -> str:
    """The state of a run, in words. Raises UserError for a damaged file."""
    folder = epath.Path(out / planned.key)
    if storage.exists(folder / PRUNED):
        return f"pruned at step {_saved(folder / PRUNED, 'step')}"
    if storage.exists(folder / FAILED):
        return f"failed: {escape.line(str(_saved(folder / FAILED, 'error')))}"
    return FINISHED if finished.read(folder) else "not finished"


def _saved(path: epath.Path, field: str) -> Any:
    saved = storage.read_json(path)
    if not isinstance(saved, dict) or field not in saved:
        raise UserError(f"{path}: has no {field!r}; remove it, and the run is tried again")
    return saved[field]


def failures(runs: Sequence[Planned], out: Path) -> list[str]:
    """One line for each failed run."""
    states = {planned.key: state(planned, out) for planned in runs}
    return [f"{key} {text}" for key, text in states.items() if text.startswith("failed")]
