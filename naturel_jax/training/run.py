"""Runs one config: builds data, model, objective and benchmarks, and hands them to the loop."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint
from naturel_jax.checkpoints.checkpoint_meta import make_meta
from naturel_jax.checkpoints.finished import FILE, Finished
from naturel_jax.config import Config
from naturel_jax.config.versions import to_json
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.items.items import Source
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.devices import preemption
from naturel_jax.devices.sharding import make_mesh, warm_up_collectives
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.evaluator import Evaluator, make_evaluator, read_benchmarks
from naturel_jax.losses.batch import Batch
from naturel_jax.training import final, first_batch, frozen, loop, observe, optim, ready, run_folder, train
from naturel_jax.training.calibration import calibrated
from naturel_jax.training.choices import make_model, resolve
from naturel_jax.training.loss import Loss
from naturel_jax.training.metrics import Metrics
from naturel_jax.training.start import Start, images_trained_on, make_start, trained_base
from tfds_naturel.common.errors import Stopped, UserError

_LOG = logging.getLogger(__name__)

_WARMUP = 10  # steps before tracing starts: the first ones compile

Watch = Callable[[int, Mapping[str, float]], object]  # steps done, scores


def run(config: Config, workdir: epath.PathLike, watch: Watch = lambda step, scores: None) -> Finished:
    """Trains (or continues) and evaluates one run in ``workdir``; returns what it found.

    A finished run is not repeated. ``watch`` is called after each evaluation during training; what it raises ends the
    run, which continues from its last checkpoint. Raises UserError for a config that cannot be run, OSError for a
    workdir that cannot be used, and Stopped if the process was asked to stop (see ``preemption``), after saving.
    """
    folder = epath.Path(workdir)
    if (found := run_folder.read_finished(folder, config)) is not None:
        _LOG.info("%s is finished: %s", config.name, folder / FILE)
        return found
    preemption.check()
    storage.check_writable(folder)
    with preemption.interruptible():
        ready.check_named(config, folder)
    with run_folder.leased(folder, config):
        mesh = make_mesh(dataclasses.asdict(config.mesh))
        warm_up_collectives(mesh)
        sources = datasets.open_sources(config.data)
        run_folder.check_same_data(folder, datasets.contents(config.data, sources))
        sizes = [len(source.items) for source in sources]
        extended = ready.check(config, folder, dict(zip(config.data.mixture, sizes, strict=True)))
        ready.check_sources(config, folder, sources, mesh)
        with preemption.interruptible():
            benchmarks = read_benchmarks(config)
        init = trained_base(config, folder, run)
        trained_on = images_trained_on(init, folder, sources)
        start = make_start(config, init, folder, sources, mesh)
        evaluator = make_evaluator(config, benchmarks, start.model, start.processor, trained_on, mesh)
        if sources:
            with preemption.interruptible():
                sources = frozen.embed_sources(config, start, sources, mesh)
                sources = datasets.decode_sources(config.data, sources, start.model.config.image.size)
                training = make_training(config, start, sources, mesh, run_folder.saved_choices(folder))
            training = training._replace(extended=extended)
            scores, intervals = train_and_evaluate(config, folder, training, evaluator, trained_on, watch)
        else:
            out = run_folder.results_of(folder, config)
            scores, intervals = preemption.abandonable(lambda: evaluator.scores_with_intervals(start.params, *out))
        found = Finished(scores, intervals, evaluator.left_out, evaluator.found(), evaluator.text_only())
        if jax.process_index() == 0:
            run_folder.write_finished(folder, config, found)
    return found


class Training(NamedTuple):
    """Everything the loop needs. ``learning_rate``: step -> rate; ``extended``: what ``ready.check`` returned."""

    start: Start
    pipeline: Pipeline
    schedule: train.Schedule
    learning_rate: optim.LearningRate
    loss: Loss
    step: jax.stages.Wrapped
    state: train.State
    extended: dict[str, Any] | None = None


def make_training(
    config: Config, start: Start, sources: Sequence[Source], mesh: Mesh, saved: Mapping[str, str] | None = None
) -> Training:
    """Builds everything needed to train from ``start``, in its initial state. ``saved``: what ``auto`` became earlier
    in the run (``run_folder.saved_choices``)."""
    sizes, processor, params = start.model.config, start.processor, start.trained
    schedule, learning_rate = train.make_schedule(config, sum(len(source.items) for source in sources))
    tx = optim.make_optimizer(config.optim, params, learning_rate)
    averages = bool(config.optim.ema) or config.optim.name in optim.AVERAGING
    base = config.objective.needs_base and not config.objective.of_average and start.adapter is None
    state = train.make_state(params, tx, mesh, ema=averages, base=base, norms=bool(config.optim.skip_above))
    state = state if start.adapter is None else state._replace(base=start.params)
    pipeline = make_pipeline(config, sources, sizes, processor, mesh)
    frozen_blocks = optim.frozen_blocks(config.optim, sizes, params)
    chosen = resolve(config, sizes, frozen_blocks, state, pipeline, schedule.total, mesh, saved or {})
    model = make_model(config, sizes, mesh, chosen.remat, frozen_blocks)  # ``start.model`` only embeds
    loss = Loss(config, model, (processor.mean, processor.std), params, mesh, chosen.exchange)
    step = train.make_step(loss, tx, state, mesh, max_scale=sizes.max_scale, options=config.optim)
    return Training(start, pipeline, schedule, learning_rate, loss, step, state)


def train_and_evaluate(
    config: Config, folder: epath.Path, training: Training, evaluator: Evaluator, trained_on: TrainedOn, watch: Watch
) -> tuple[dict[str, float], Intervals]:
    """Trains from the newest checkpoint in ``folder``, if any; returns the final scores and their confidence intervals.
    Raises what ``run`` raises."""
    schedule = training.schedule
    storage.check_writable(folder, sum(x.nbytes for x in jax.tree.leaves(training.state.arrays())))
    mined_every = [part.hard_images_every for part in config.data.mixture.values() if part.hard_images_every]
    checkpoints = checkpoint.Checkpoints(folder, keep=config.checkpoint.keep, every=mined_every)
    with preemption.interruptible():
        first, state = restore_or_start(config, folder, checkpoints, training)
    model, start = training.loss.model, training.start
    choices = {"remat": model.compute.remat, "exchange": training.loss.layout.exchange, "init_digest": start.digest}
    meta = make_meta(to_json(config), model.config, start.processor, trained_on.meta(), start.adapter_meta, **choices)
    metrics = Metrics(config, folder, start=first, total=schedule.total, log_every=schedule.log_every)

    def save(done: int, state: train.State, wait: bool) -> None:
        with metrics.paused():
            checkpoints.save(done, state.arrays(), meta, wait=wait)

    def evaluate(done: int, state: train.State, names: Sequence[str]) -> None:
        try:
            with metrics.paused():
                scores = preemption.abandonable(lambda: evaluator.scores(start.merged(state), names))
                metrics.evaluation(done, scores)
                watch(done, scores)
        except Stopped:  # restarted from this step, the run evaluates first
            if done > first:
                save(done, state, wait=True)
            raise

    rate = observe.rate_at(training.learning_rate)

    def prepare(state: train.State, batch: Batch) -> None:
        with metrics.paused():
            preemption.abandonable(lambda: training.step.lower(state, batch).compile())

    def log(done: int, values: dict[str, float]) -> None:
        metrics.train(done, values | {"lr": rate(done - 1)})

    with contextlib.closing(metrics), contextlib.closing(checkpoints):
        if first < schedule.total:
            evaluate(first, state, [name for name in loop.due(schedule, first) if name not in metrics.evaluated])
        ready.note(config, folder, training.extended)
        with observe.profiler(folder / "profile", range(first + _WARMUP, first + _WARMUP + schedule.profile)) as trace:
            try:
                state, finished = loop.loop(
                    training.step,
                    state,
                    first_batch.batches(training.pipeline, folder, first, schedule.total, metrics.first_batch),
                    start=first,
                    schedule=schedule,
                    save=save,
                    evaluate=evaluate,
                    log=log,
                    flops=lambda batch: training.loss.step_flops(batch).model,
                    stop_requested=preemption.stop_requested,
                    prepare=prepare,
                    profile=trace,
                )
            except loop.NotFinite as error:
                names = ", ".join(training.pipeline.planner.names(error.step))
                raise UserError(f"{error}. Lower config.optim.lr or inspect the items of the batch: {names}") from error
        if not finished:
            raise Stopped(f"{config.name} stopped and saved in {folder}; run the same command again to continue")
        return final.evaluate(config, folder, start.merged(state), schedule.total, evaluator, metrics)


def restore_or_start(
    config: Config, folder: epath.Path, checkpoints: checkpoint.Checkpoints, training: Training
) -> tuple[int, train.State]:
    """(step, state) of the newest checkpoint; without one, of the initial state, with its bias calibrated if it is new
    or ``config.objective.calibrate_bias`` asks for it. Raises UserError for the checkpoint of another run."""
    wanted, state, start = train.abstract(training.state), training.state, training.start
    if checkpoint.saved_steps(folder):  # both may not fit; ``restore`` returns one or raises
        jax.tree.map(lambda x: x.delete(), state.arrays())
    began = start.adapter_meta, start.digest, start.processor
    restored = checkpoints.restore(wanted, lambda meta: run_folder.check_meta(folder, meta, config, *began))
    if restored is not None:
        step, arrays, _ = restored
        _LOG.info("continuing %s from step %d", config.name, step)
        return step, state._replace(opt_state=arrays.pop("optimizer"), **arrays)
    if start.new_bias or config.objective.calibrate_bias:
        state = calibrated(state, training.loss, next(training.pipeline.batches(0, 1)))
        _LOG.info("logit bias calibrated on the first batch: %.2f", float(state.params["logit_bias"]))
    if jax.process_index() == 0:
        _LOG.info("%s\n%s", config.name, observe.parameter_table(state.params))
    return 0, state
