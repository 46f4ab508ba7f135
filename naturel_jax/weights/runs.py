"""Our own runs as checkpoints to start from, evaluate or export."""

from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint, checkpoint_meta, manifest
from naturel_jax.checkpoints.restore import read
from naturel_jax.data.seen import trained_on as trained_on_lib
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text import limited
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import path_string
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, config_from_dict
from naturel_jax.weights.processor_files import malformed
from tfds_naturel.common.errors import UserError


class NotARun(UserError, FileNotFoundError):
    """A folder that holds no checkpoint of a run."""


def read_meta(workdir: epath.PathLike, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, meta) of a run's checkpoint at ``step``, or of its newest.

    Raises NotARun if there is none, UserError for one written by a later version.
    """
    directory, steps = checkpoint.directory(workdir), checkpoint.saved_steps(workdir)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise NotARun(f"{workdir} is not a run directory with {wanted}; steps found in {directory}: {steps or 'none'}")
    step = max(steps) if step is None else step
    meta = _read(directory / str(step), meta=ocp.args.JsonRestore())["meta"]
    with malformed(directory / str(step) / "meta"):
        if (version := meta.get("version", 0)) > checkpoint_meta.VERSION:
            raise UserError(f"version {version}; this naturel_jax reads up to {checkpoint_meta.VERSION}")
    return step, meta


def trained_on(workdir: epath.PathLike, step: int | None = None) -> TrainedOn:
    """Training images of a run and of the runs that it descends from; empty if it has no record of them.

    Raises what ``read_meta`` raises, and UserError if the record is missing, damaged, or another run's.
    """
    step, meta = read_meta(workdir, step)
    with malformed(checkpoint.directory(workdir) / str(step) / "meta"):
        if meta.get("version", 0) < 3:
            return trained_on_lib.from_used(meta.get("used", {}))
        noted = meta["trained_on"]
    folder = epath.Path(workdir) / trained_on_lib.FOLDER
    if noted is None:
        return TrainedOn()
    found = trained_on_lib.load(folder)
    if found is None or found.meta() != noted:
        what = "is missing" if found is None else "is another run's"
        raise UserError(
            f"{folder} {what}: it lists the training images of step {step}, which scores leave out; copy it from "
            "where the run was trained"
        )
    return found


def base(workdir: epath.PathLike) -> str:
    """What a run started from, as ``weights.load`` takes it; "" for random parameters. Raises like ``read_meta``."""
    step, meta = read_meta(workdir)
    with malformed(checkpoint.directory(workdir) / str(step) / "meta"):
        init = str(meta["config"]["init"])
    return f"run:{epath.Path(workdir).parent / init.removeprefix('base:')}" if init.startswith("base:") else init


def load_run(
    workdir: epath.PathLike,
    *,
    step: int | None = None,
    sharding_for: Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None = None,
) -> tuple[TwoTowerConfig, Params, Processor]:
    """Model sizes, parameters (the moving average if the run keeps one) and processor of a run.

    ``sharding_for(path, shape)`` places each parameter; without it, all go to the first device. Raises NotARun, and
    UserError for a damaged checkpoint.
    """
    step, meta = read_meta(workdir, step)
    folder = checkpoint.directory(workdir) / str(step)
    with malformed(folder / "meta"):
        config, processor = config_from_dict(meta["model"]), Processor(**meta["processor"])
        limited.check(folder / "meta", processor.tokenizer)
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        place = sharding_for(path_string(path), leaf.shape) if sharding_for else one_device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    shapes = jax.tree_util.tree_map_with_path(abstract, Model(config).shapes())
    item = "ema" if "ema" in storage.names(folder) else "params"
    params = _read(folder, **{item: ocp.args.StandardRestore(shapes)})[item]
    return config, params, processor


def _read(folder: epath.Path, **items: Any) -> dict[str, Any]:
    try:
        return read(folder, **items)
    except manifest.Damaged as error:
        raise UserError(f"checkpoint {folder} is damaged: {error}; use another checkpoint of the run") from error
