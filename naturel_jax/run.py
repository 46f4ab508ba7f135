"""One run from its config: builds data, model, objective and benchmarks, and hands them to the loop."""

import dataclasses
import functools
import json
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from naturel_jax import checkpoint, optim, train, weights
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.config import duration
from naturel_jax.data import datasets
from naturel_jax.data.augment import Augment
from naturel_jax.data.items import Source
from naturel_jax.data.pipeline import Pipeline
from naturel_jax.data.planner import Part, Planner
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.data.recipes import recipe
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.metrics import Metrics
from naturel_jax.models import presets
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.objectives import calibrate_bias
from naturel_jax.sharding import batch_sharding, batch_shards, make_mesh, shardings, spec
from tfds_naturel import recipe_sources
from tfds_naturel.mining import hard_images

_LOG = logging.getLogger(__name__)

# What may differ between a run and its continuation; anything else would make it another run.
_MAY_CHANGE = (
    "mesh",
    "log_every",
    "checkpoint",
    "eval",
    "tensorboard",
    "wandb",
    "data.dir",
    "data.threads",
    "data.workers",
)


def run(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains (or continues) and evaluates one run in ``workdir``; returns its final scores.

    A finished run is not computed again. Raises ValueError for config fields that do not fit, OSError for a workdir
    that cannot be used, ``train.NotFinite``, and SystemExit(0) once it was asked to stop and has saved.
    """
    folder = epath.Path(workdir)
    if (scores := _finished(folder, config)) is not None:
        _LOG.info("%s is finished: %s", config.name, folder / "scores.json")
        return scores
    checkpoint.check_workdir(workdir, 0)
    stop_asked = _watch_for_stop()
    mesh = make_mesh(config.mesh)
    sources = [datasets.source(config.data.dir, part.dataset, part.split) for part in config.data.mixture.values()]
    used = _used(config)
    model, params, processor = _model(config, folder, sources, mesh)
    judge = _Judge(config, model, processor, mesh, used)
    if sources:
        scores = _Fit(config, folder, mesh, sources, model, processor, used).fit(params, judge, stop_asked)
    else:
        scores = judge.scores(params)
    if jax.process_index() == 0:
        saved = {**_asked(config), "config": json.loads(config.to_json()), "scores": scores}
        (folder / "scores.json").write_text(json.dumps(saved, indent=1))
    return scores


def _asked(config: ConfigDict) -> dict[str, Any]:
    return {"duration": config.duration, "benchmarks": list(config.eval.benchmarks)}


def _finished(folder: epath.Path, config: ConfigDict) -> dict[str, float] | None:
    """The scores of a run that has ended with this duration and these benchmarks. Raises ValueError for another
    run's."""
    path = folder / "scores.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    if not saved or not _asked(config).items() <= saved.items():
        return None
    _refuse_another(folder, saved["config"], config)
    return saved["scores"]


def _used(config: ConfigDict) -> dict[str, list[str]]:
    """The items of benchmarks that the run trains on, by benchmark: it is scored on the others only."""
    found: dict[str, set[str]] = {}
    for part in config.data.mixture.values():
        for name, items in recipe_sources.used(datasets.directory(config.data.dir, part.dataset)).items():
            found.setdefault(name, set()).update(items)
    return {name: sorted(items) for name, items in found.items()}


def _watch_for_stop() -> Callable[[int], bool]:
    """``stop_asked(step)``: whether this run was told to end, by SIGTERM or Ctrl-C (a second Ctrl-C ends it at once).

    Under ``jax.distributed`` JAX itself catches SIGTERM, and all processes agree on the step.
    """
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point
    asked = []

    def ask(number, _frame):
        asked.append(number)
        _LOG.warning("%s: saving after this step, then ending", signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return lambda step: bool(asked)


def _model(
    config: ConfigDict, folder: epath.Path, sources: Sequence[Source], mesh: Mesh
) -> tuple[Model, Params, Processor]:
    """Model, parameters laid out over the mesh, and processor: from ``config.init``, or a preset with random
    parameters."""
    if bool(config.init) == bool(config.preset):
        raise ValueError(f"config.init is {config.init!r} and config.preset is {config.preset!r}: set one of them")
    compute = config.compute
    compute = Compute(_dtype(compute.dtype), compute.remat, compute.attention or None)
    if config.init:

        def sharding_for(path: str, shape: tuple[int, ...]) -> NamedSharding:
            return NamedSharding(mesh, spec(path, shape, mesh))

        sizes, params, processor = weights.load(config.init, sharding_for=sharding_for)
        model = Model(sizes, compute)
    else:
        model = Model(presets.preset(config.preset), compute)
        init = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))
        params, processor = init(jax.random.key(config.seed)), _trained_processor(model.config, folder, sources)
    if config.objective.name == "sigmoid" and model.config.init_bias is None:
        # A CLIP checkpoint moves to the sigmoid loss: it gets a bias, which the first batch sets (_Fit._calibrated).
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, init_bias=0.0))
        params["logit_bias"] = jax.device_put(jnp.float32(0), NamedSharding(mesh, PartitionSpec()))
    return model, params, processor


def _dtype(name: str) -> str:
    """bf16 matrix products are slow on CPUs and fast everywhere else."""
    return ("float32" if jax.default_backend() == "cpu" else "bfloat16") if name == "auto" else name


def _trained_processor(sizes: TwoTowerConfig, folder: epath.Path, sources: Sequence[Source]) -> Processor:
    """The processor of a preset trained from nothing: a tokenizer for the captions of ``sources``, trained once by the
    first process."""
    path = folder / "processor.json"
    if jax.process_index() == 0 and not path.exists():
        family, text = ("clip" if sizes.text.pool == "eos" else "siglip"), sizes.text
        if not sources:
            raise ValueError("config.preset needs config.data.mixture: its tokenizer is trained on the captions")
        captions = [caption for source in sources for caption in source.items.texts]
        tokenizer = train_tokenizer(family, captions, text.vocab, text.context)
        pixels = {"resize": "square", "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        processor = Processor(tokenizer=tokenizer, context=text.context, size=sizes.image.size, **pixels)
        path.write_text(json.dumps(processor.to_dict()))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("processor")
    return Processor(**json.loads(path.read_text()))


class _Judge:
    """The benchmarks of a run, read once, and what embeds them."""

    def __init__(
        self, config: ConfigDict, model: Model, processor: Processor, mesh: Mesh, used: Mapping[str, Sequence[str]]
    ):
        benchmarks = [b.held_out(frozenset(used.get(b.name, ()))) for b in _benchmarks(config)]
        self._evaluator = Evaluator(model, processor, benchmarks, mesh=mesh, batch_size=config.eval.batch_size)
        self._during = config.eval.during
        if unknown := set(config.eval.during) - {b.name for b in benchmarks}:
            raise ValueError(f"config.eval.during has {sorted(unknown)}, which config.eval.benchmarks does not")

    def scores(self, params: Params) -> dict[str, float]:
        """Scores of all benchmarks."""
        return self._evaluator.scores(params)

    def scores_during(self, params: Params) -> dict[str, float]:
        """Scores of ``config.eval.during``."""
        return self._evaluator.scores(params, self._during)


def _headline(scores: dict[str, float]) -> dict[str, float]:
    """The main metrics: by relation and triplet there are hundreds."""
    return {name: score for name, score in scores.items() if name.count("/") == 1}


def _benchmarks(config: ConfigDict) -> list[Benchmark]:
    """The benchmarks of ``config.eval.benchmarks``, in that order."""
    files_dir = config.eval.benchmarks_dir
    names = config.eval.benchmarks
    files = [name for name in names if name in registry.BENCHMARKS and not registry.BENCHMARKS[name].SOURCE.prepared]
    if files and not files_dir:
        world = config.eval.naturel.removeprefix("naturel/")
        if world not in datasets.WORLDS:
            raise ValueError(
                f"config.eval.benchmarks has {files}: say where their files are in config.eval.benchmarks_dir"
            )
        files_dir = datasets.twins_directory(config.data.dir, world)
    prepared = len(files) < len(names)
    naturel = datasets.directory(config.data.dir, config.eval.naturel) if prepared else None
    return registry.read(names, files=Path(files_dir) if files else None, naturel=naturel)


class _Fit:
    """Trains one model."""

    def __init__(self, config, folder, mesh, sources, model, processor, used):
        self._config, self._folder, self._mesh = config, folder, mesh
        self._model, self._processor, self._used = model, processor, used
        steps = functools.partial(
            duration, batch_size=config.data.batch_size, examples=sum(len(s.items) for s in sources)
        )
        total = steps(config.duration, field="duration")
        every = functools.partial(steps, total=total)
        self._schedule = train.Schedule(
            total=total,
            log_every=max(every(config.log_every, field="log_every"), 1),
            checkpoint_every=every(config.checkpoint.every, field="checkpoint.every"),
            eval_every=every(config.eval.every, field="eval.every"),
        )
        self._learning_rate = optim.schedule(config.optim, total, every(config.optim.warmup, field="optim.warmup"))
        self._pipeline = self._make_pipeline(sources)

    def _make_pipeline(self, sources: Sequence[Source]) -> Pipeline:
        config, text = self._config, self._model.config.text
        parts = [
            Part(
                s.items,
                recipe(p.recipe),
                p.weight,
                hard_images(Path(p.hard_images), s.items.image_ids) if p.hard_images else None,
            )
            for s, p in zip(sources, config.data.mixture.values(), strict=True)
        ]
        planner = Planner(
            parts,
            self._processor,
            batch_size=config.data.batch_size,
            shards=batch_shards(self._mesh),
            seed=config.seed,
            trim_eos=text.eos_id if text.causal else None,
            chunks=config.objective.chunks,
        )
        augment = Augment(self._model.config.image.size, tuple(config.data.crop_scale))
        place = batch_sharding(self._mesh)
        return Pipeline(planner, sources, augment, place, threads=config.data.threads, workers=config.data.workers)

    def fit(self, params: Params, judge: _Judge, stop_asked: Callable[[int], bool]) -> dict[str, float]:
        """The scores at the end. Continues from the newest checkpoint in the folder; raises SystemExit(0) when asked
        to stop."""
        config, schedule = self._config, self._schedule
        tx = optim.make(config.optim, params, self._learning_rate)
        state = train.make_state(params, tx, self._mesh, ema=bool(config.optim.ema))
        checkpoint.check_workdir(self._folder, sum(x.nbytes for x in jax.tree.leaves(state)))
        checkpoints = checkpoint.Checkpoints(self._folder, keep=config.checkpoint.keep)
        meta = checkpoint.make_meta(json.loads(config.to_json()), self._model.config, self._processor, self._used)
        start, state = self._continued(checkpoints, state)
        frozen = optim.frozen(config.optim, params)
        objective = train.make_objective(config.objective, self._mesh)
        loss = train.Loss(self._model, objective, self._processor, frozen=frozen, chunks=config.objective.chunks)
        if start == 0:
            state = self._calibrated(state, loss)
            self._write_config(meta)
        metrics = Metrics(
            self._folder,
            start=start,
            total=schedule.total,
            log_every=schedule.log_every,
            images=config.data.batch_size,
            name=config.name,
            tensorboard=config.tensorboard,
            wandb=config.wandb,
        )

        def evaluate(step: int, state: train.State) -> None:
            with metrics.paused():
                metrics.write(step, _headline(judge.scores_during(state.evaluated)))

        step = train.make_step(
            loss,
            tx,
            self._learning_rate,
            state,
            self._mesh,
            max_scale=self._model.config.max_scale,
            ema=config.optim.ema,
        )
        loop = train.Loop(
            step,
            schedule,
            save=lambda step, state, wait: checkpoints.save(step, state.arrays(), meta, wait=wait),
            evaluate=evaluate,
            log=metrics.train,
            stop_asked=stop_asked,
            names=self._pipeline.planner.names,
        )
        try:
            if start == 0:
                evaluate(0, state)
            state, finished = loop.run(state, start, self._pipeline.batches(start, schedule.total))
            if not finished:
                raise SystemExit(0)
            scores = judge.scores(state.evaluated)
            metrics.write(schedule.total, _headline(scores))
            return scores
        finally:
            checkpoints.close()
            metrics.close()

    def _continued(self, checkpoints: checkpoint.Checkpoints, state: train.State) -> tuple[int, train.State]:
        """(step, state) of the newest checkpoint; (0, ``state``) where there is none. Raises ValueError for another
        run's."""
        restored = checkpoints.restore(
            train.abstract(state), lambda meta: _refuse_another(self._folder, meta["config"], self._config)
        )
        if restored is None:
            return 0, state
        step, arrays, _ = restored
        _LOG.info("continuing %s from step %d", self._config.name, step)
        return step, train.State(arrays["params"], arrays["optimizer"], arrays.get("ema"))

    def _calibrated(self, state: train.State, loss: train.Loss) -> train.State:
        """A bias that was just added is set to the best one for the first batch."""
        if self._model.config.init_bias != 0.0:
            return state
        batch = next(self._pipeline.batches(0, 1))

        @jax.jit
        def best(params, batch):
            zimg_ID, zcap_UD = loss.embed(params, batch)
            return calibrate_bias(
                lambda bias: loss.from_embeddings(params | {"logit_bias": bias}, zimg_ID, zcap_UD, batch)
            )

        bias = best(state.params, batch)
        _LOG.info("logit bias calibrated on the first batch: %.2f", float(bias))
        bias = jax.device_put(bias, state.params["logit_bias"].sharding)
        average = state.ema and state.ema | {"logit_bias": jnp.copy(bias)}
        return state._replace(params=state.params | {"logit_bias": bias}, ema=average)

    def _write_config(self, meta: dict[str, Any]) -> None:
        if jax.process_index() == 0:
            about = {"config": meta["config"], "versions": meta["versions"]}
            (self._folder / "config.json").write_text(json.dumps(about, indent=1))


def _refuse_another(folder: epath.Path, saved: dict[str, Any], config: ConfigDict) -> None:
    """Raises ValueError when ``config`` differs from that of the run in ``folder`` in what makes it another run."""
    if changed := _differences(_fixed(saved), _fixed(json.loads(config.to_json()))):
        raise ValueError(
            f"{folder} holds a run with another config: {'; '.join(changed)}. Use another --workdir, or the same config"
        )


def _fixed(fields: dict[str, Any]) -> dict[str, Any]:
    """The config fields by dotted name that a continuation must not change, as JSON has them."""
    flat = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif not any(prefix == name or prefix.startswith(name + ".") for name in _MAY_CHANGE):
            flat[prefix] = value

    walk("", fields)
    return flat


def _differences(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    names = sorted(saved.keys() | asked.keys())
    return [f"config.{n} was {saved.get(n)!r}, is {asked.get(n)!r}" for n in names if saved.get(n) != asked.get(n)]
