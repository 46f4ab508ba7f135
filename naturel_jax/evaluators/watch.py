"""Evaluates the checkpoints of a run as they appear: ``<out>/<step>.json`` for each."""

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath
from jax.sharding import Mesh

from naturel_jax import storage, weights
from naturel_jax.benchmarks.benchmark import Benchmark, headlines
from naturel_jax.checkpoints import checkpoint, finished, manifest
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.devices import preemption
from naturel_jax.devices.sharding import make_mesh, param_sharding
from naturel_jax.evaluators import fingerprints, results
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.evaluators.held_out import hold_out
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import Loaded, runs
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 5.0
CONFIG = "config.json"  # in the folder of a run


def watch(
    workdir: epath.Path, benchmarks: Sequence[Benchmark], out: epath.Path, *, batch_size: int, dtype: str
) -> None:
    """Evaluates every checkpoint in ``workdir``, old and new, until the run has ended (its ``scores.json`` exists) and
    its last checkpoint is evaluated. Benchmarks already finished in ``out`` are skipped, unless the checkpoint, the
    benchmark or ``dtype`` is another now.

    A checkpoint that the run removes before it is read (it keeps only the newest ones) is skipped. Raises UserError
    if ``out`` holds the scores of another run.
    """
    mesh = make_mesh({"data": -1})
    evaluator: Evaluator | None = None
    storage.check_writable(out, flag="--out")
    for step in new_steps(workdir):
        path = out / f"{step}.json"
        if (identity := _unless_removed(workdir, step, functools.partial(_identity, workdir, step))) is None:
            continue
        inputs = {benchmark.name: fingerprints.of_pair(dtype, benchmark) for benchmark in benchmarks}
        missing = [name for name in inputs if name not in _read(path, workdir, identity, inputs)["benchmarks"]]
        if not missing:
            print(f"step {step}: already done", flush=True)
            continue
        with preemption.interruptible():
            found = _unless_removed(workdir, step, functools.partial(_load, workdir, step, mesh))
        if found is None:
            continue
        loaded, trained_on = found
        if evaluator is None:
            model = Model(loaded.config, Compute(dtype=dtype))
            held_out = [hold_out(benchmark, trained_on) for benchmark in benchmarks]
            evaluator = Evaluator(model, loaded.processor, held_out, mesh=mesh, batch_size=batch_size)
        score = functools.partial(evaluator.scores, loaded.params, missing)
        new = preemption.abandonable(score)
        saved = _read(path, workdir, identity, inputs)  # another process may have added other benchmarks
        scores, left_out = saved["scores"] | new, saved["left_out"] | evaluator.left_out
        names = list(dict.fromkeys([*saved["benchmarks"], *missing]))
        done = {"benchmarks": names, "scores": scores, "left_out": left_out}
        fields = saved | {"step": step, **done, "inputs": saved["inputs"] | inputs}
        storage.write_json(path, fields)
        headline = {metric: scores[metric] for metric in headlines(scores)}
        listed = ", ".join(f"{metric} {value:.4f}" for metric, value in headline.items())
        print(escape.line(f"step {step}: {listed}"), flush=True)


def wait_for_run(workdir: epath.Path) -> None:
    """Returns when a run has begun in ``workdir``. Raises Stopped while it waits."""
    _say_if_missing(workdir)
    while not storage.exists(workdir / CONFIG):
        preemption.check()
        time.sleep(POLL_SECONDS)


def _say_if_missing(workdir: epath.Path) -> None:
    if not storage.exists(path := workdir / CONFIG):
        _LOG.warning("%s is not there yet; waiting for a run to begin in %s", path, workdir)


def new_steps(workdir: epath.Path) -> Iterator[int]:
    """Each checkpoint's step once, oldest first, until the run has ended. Raises Stopped while it waits."""
    _say_if_missing(workdir)
    seen = set[int]()
    _LOG.info("watching %s", workdir)
    while True:
        preemption.check()
        ended = storage.exists(workdir / finished.FILE)  # checked before the listing, which then has every checkpoint
        new = sorted(set(checkpoint.saved_steps(workdir)) - seen)
        yield from new
        seen.update(new)
        if ended and not new:
            return
        if not new:
            time.sleep(POLL_SECONDS)


def _identity(workdir: epath.Path, step: int) -> str:
    """Identifies a checkpoint by its metadata and its manifest, which has the checksums of its parameters. Raises what
    ``runs.read_meta`` raises."""
    text = json.dumps(runs.read_meta(workdir, step), sort_keys=True)
    text += storage.read(checkpoint.directory(workdir) / str(step) / manifest.NAME)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _load(workdir: epath.Path, step: int, mesh: Mesh) -> tuple[Loaded, TrainedOn]:
    """A checkpoint and its training images."""
    trained_on = runs.trained_on(workdir, step)
    return weights.load(f"run:{workdir}@{step}", sharding_for=param_sharding(mesh)), trained_on


def _unless_removed(workdir: epath.Path, step: int, read: Callable[[], T]) -> T | None:
    """What ``read`` reads of a checkpoint; None, and a line about it, if it has been removed in the meantime."""
    try:
        return read()
    except Exception:  # Orbax and TensorStore raise many kinds for files that disappear
        if step in checkpoint.saved_steps(workdir):
            raise
        print(f"step {step}: the run removed this checkpoint before it was read; skipped", flush=True)
        return None


def _read(path: epath.Path, workdir: epath.Path, identity: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The finished scores of a step: none of another checkpoint than ``identity``, such as of a run that was in
    ``workdir`` before, nor of a benchmark that has changed since. ``inputs``: benchmark -> digest of its items. Raises
    UserError for another run's file."""
    run = os.fspath(storage.absolute(workdir))
    none = {
        "version": results.VERSION,
        "run": run,
        "benchmarks": [],
        "scores": {},
        "left_out": {},
        "inputs": {},
        "checkpoint": identity,
    }
    if not storage.exists(path):
        return none
    saved = storage.read_json(path)
    if not none.keys() <= saved.keys():
        raise UserError(f"{path}: not the scores of a checkpoint; move it away to evaluate it again")
    results.check_version(path, saved["version"])
    if saved["run"] != run:
        raise UserError(f"{path}: holds scores of {saved['run']}, not of {run}; choose another --out")
    if saved["checkpoint"] != identity:
        return none
    changed = {name for name in inputs if saved["inputs"].get(name) != inputs[name]}
    kept = {metric: value for metric, value in saved["scores"].items() if metric.partition("/")[0] not in changed}
    names = [name for name in saved["benchmarks"] if name not in changed]
    return saved | {"benchmarks": names, "scores": kept}
