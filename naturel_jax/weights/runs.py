"""Our own runs as checkpoints to start from, evaluate or export.

A run is named by its workdir, which stands for its newest checkpoint, by ``WORKDIR@STEP``, or by
``WORKDIR@best:SCORE``: of the checkpoints that are kept, the one at whose step the run recorded the best SCORE.
``WORKDIR@interpolated:SHARE`` is its newest one interpolated with what the run started from.
"""

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import sign
from naturel_jax.checkpoints import checkpoint, checkpoint_meta, manifest, recorded
from naturel_jax.checkpoints.restore import read
from naturel_jax.config import check_folder
from naturel_jax.data.seen import trained_on as trained_on_lib
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text import limited
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import path_string
from naturel_jax.models import adapters
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, config_from_dict
from naturel_jax.weights import peft
from naturel_jax.weights.processor_files import malformed
from tfds_naturel.common.errors import UserError


class Run(NamedTuple):
    """A run's checkpoint in memory. ``adapter``: its parameters, if they are adapters, with what they belong to."""

    config: TwoTowerConfig
    params: Params
    processor: Processor
    adapter: peft.Adapter | None


class NotARun(UserError, FileNotFoundError):
    """A folder that holds no checkpoint of a run."""


def locate(name: epath.PathLike, step: int | None = None) -> tuple[epath.Path, int]:
    """Workdir and step of the checkpoint that ``name`` names (what follows ``run:``), or of the one at ``step`` in the
    workdir ``name``.

    A folder that is called like that itself, ``@`` included, is treated as a workdir. If several checkpoints are
    equally good, ``@best`` is the earliest; it needs no SCORE if the run recorded only one. Raises NotARun if there is
    no such checkpoint, UserError for a score that no kept checkpoint has.
    """
    text = _mixed(name)[0]
    if "\0" in text:  # a run may name any other as the one that it started from
        raise NotARun(f"{text!r:.80} is not the name of a folder")
    best = re.fullmatch(r"(.+?)@best(?::(.+))?", text, re.DOTALL)
    numbered = re.fullmatch(r"(.+)@(\d+)", text, re.DOTALL)
    if step is None and (best or numbered) and not checkpoint.saved_steps(name):
        if best:
            return epath.Path(best[1]), _best(epath.Path(best[1]), best[2] or "")
        assert numbered
        text, step = numbered[1], int(numbered[2])
    workdir = epath.Path(text)
    steps = checkpoint.saved_steps(workdir)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        folder = checkpoint.directory(workdir)
        raise NotARun(
            f"{workdir} is not a run directory with {wanted}; steps found in {folder}: {steps or 'none'}; expected "
            "WORKDIR, WORKDIR@STEP, WORKDIR@best:SCORE or WORKDIR@interpolated:SHARE"
        )
    return workdir, max(steps) if step is None else step


def _mixed(name: epath.PathLike) -> tuple[str, str]:
    """(WORKDIR, SHARE) of ``WORKDIR@interpolated:SHARE``; (``name``, "") for other names."""
    found = re.fullmatch(r"(.+)@interpolated:(.+)", os.fspath(name), re.DOTALL)
    return (found[1], found[2]) if found and not checkpoint.saved_steps(name) else (os.fspath(name), "")


def share(name: epath.PathLike) -> float | None:
    """The share of the run's own parameters in ``WORKDIR@interpolated:SHARE``, which may be "best", the one that the
    run named (``config.eval.interpolate_by``); None for other names. Raises UserError."""
    workdir, text = _mixed(name)
    if not text:
        return None
    if text == "best":
        path = epath.Path(workdir) / recorded.INTERPOLATED
        found = storage.read_json(path) if storage.exists(path) else None
        best = found.get("best") if isinstance(found, dict) else None
        if best is None:
            raise UserError(f"run:{name}: {path} names no best share; see config.eval.interpolate_by, or give a number")
        text = str(best)
    try:
        if 0 <= (value := float(text)) <= 1:
            return value
    except ValueError:
        pass
    raise UserError(f"run:{name}: the share is {text!r}; expected a number from 0 to 1, or best")


def _best(workdir: epath.Path, score: str) -> int:
    """The step of the best checkpoint that is kept. Raises NotARun and UserError."""
    steps, found = locate(workdir) and checkpoint.saved_steps(workdir), recorded.by_step(workdir)
    names = sorted({name for scores in found.values() for name in scores})
    if not score and len(names) == 1:
        (score,) = names
    value_at = {step: found[step][score] for step in steps if score in found.get(step, ())}
    if value_at:
        return max(value_at, key=lambda step: (sign(score) * value_at[step], -step))
    listed = f"{workdir / recorded.FILE} has the scores {', '.join(names) or 'of no evaluation'}"
    if score not in names:
        raise UserError(f"run:{workdir}@best{score and ':'}{score}: expected @best:SCORE; {listed}")
    at = [step for step, scores in found.items() if score in scores]
    raise UserError(
        f"run:{workdir}@best:{score}: recorded at steps {at}, but the checkpoints that are kept are of steps {steps}; "
        "evaluate at the steps that are saved (config.eval.during, config.checkpoint.every) and keep more of them "
        "(config.checkpoint.keep)"
    )


def read_meta(name: epath.PathLike, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, meta) of the checkpoint that ``name`` and ``step`` name (``locate``).

    Raises what ``locate`` raises, and UserError for a checkpoint of another version.
    """
    workdir, step = locate(name, step)
    return step, _read_meta(workdir, step)


def _read_meta(workdir: epath.Path, step: int) -> dict[str, Any]:
    folder = checkpoint.directory(workdir) / str(step)
    meta = _read(folder, meta=ocp.args.JsonRestore())["meta"]
    with malformed(folder / "meta"):
        if (version := meta["version"]) != (ours := checkpoint_meta.VERSION):
            raise UserError(f"version {version!r:.20}; this naturel_jax reads {ours}: install the one that wrote it")
    return meta


def trained_on(name: epath.PathLike, step: int | None = None) -> TrainedOn:
    """Training images of a run and of the runs that it descends from; empty if it has no record of them.

    Raises what ``read_meta`` raises, and UserError if the record is missing, damaged, or another run's.
    """
    workdir, step = locate(name, step)
    meta = _read_meta(workdir, step)
    with malformed(checkpoint.directory(workdir) / str(step) / "meta"):
        noted = meta["trained_on"]
    folder = workdir / trained_on_lib.FOLDER
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


def extended(folder: epath.Path, step: int) -> list[tuple[int, str]]:
    """``recorded.extended`` of the run in ``folder`` until its checkpoint ``step``. Raises UserError for a damaged
    ``config.json``."""
    if not storage.exists(path := folder / "config.json"):  # an export has none
        return []
    with malformed(path):
        return [(at, duration) for at, duration in recorded.extended(storage.read_json(path)) if at < step]


def base(name: epath.PathLike) -> str:
    """What a run started from, as ``weights.load`` takes it; "" for random parameters. Raises like ``read_meta``."""
    workdir, step = locate(name)
    meta = _read_meta(workdir, step)
    with malformed(checkpoint.directory(workdir) / str(step) / "meta"):
        return _resolved(workdir, str(meta["config"]["init"]))


def base_digest(name: epath.PathLike) -> str:
    """``adapters.digest`` of what a run started from; "" if that was computed. Raises like ``read_meta``."""
    return str(read_meta(name)[1]["init_digest"])


def _resolved(workdir: epath.Path, init: str) -> str:
    """``init``, with ``base:NAME`` as the run in the folder NAME beside ``workdir``, with which it may have been moved,
    as an absolute path. Raises UserError for a NAME that is no folder's."""
    if not init.startswith("base:"):
        return init
    check_folder(init.removeprefix("base:"), "config.init")
    return f"run:{storage.absolute(workdir).parent / init.removeprefix('base:')}"


def load_run(
    name: epath.PathLike,
    *,
    sharding_for: Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None = None,
) -> Run:
    """Model sizes, parameters (the moving average if the run keeps one), processor and adapter of a run.

    ``sharding_for(path, shape)`` places each parameter; without it, all go to the first device. Raises what
    ``read_meta`` raises, and UserError for a damaged checkpoint.
    """
    workdir, step = locate(name)
    meta, folder = _read_meta(workdir, step), checkpoint.directory(workdir) / str(step)
    with malformed(folder / "meta"):
        config, processor = config_from_dict(meta["model"]), Processor(**meta["processor"])
        limited.check(folder / "meta", processor.tokenizer)
        processor.check_ids(config.text)
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        place = sharding_for(path_string(path), leaf.shape) if sharding_for else one_device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    shapes, adapter = Model(config).shapes(), None
    if fields := meta.get("adapter"):
        with malformed(folder / "meta"):
            adapter = peft.Adapter.of_run(fields)
            shapes = adapters.shapes(shapes, adapter.options.rank, adapter.options.targets)
            init = str(meta["config"]["init"])
            if init == f"base:{adapter.base.rpartition('/')[2]}":  # else it went on with adapters of that run
                adapter = adapter._replace(base=_resolved(workdir, init))
    shapes = jax.tree_util.tree_map_with_path(abstract, shapes)
    item = "ema" if "ema" in storage.names(folder) else "params"
    params = _read(folder, **{item: ocp.args.StandardRestore(shapes)})[item]
    return Run(config, params, processor, adapter and adapter._replace(params=params))


def _read(folder: epath.Path, **items: Any) -> dict[str, Any]:
    try:
        return read(folder, **items)
    except manifest.Damaged as error:
        raise UserError(f"checkpoint {folder} is damaged: {error}; use another checkpoint of the run") from error
