"""Scores one model's parameters on benchmarks, as a training run does on its schedule."""

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from naturel_jax.benchmarks import blind, registry
from naturel_jax.benchmarks.benchmark import Benchmark, Item
from naturel_jax.config import Config, own_benchmarks
from naturel_jax.config.settings import closest
from naturel_jax.data import datasets
from naturel_jax.data.items.records import existing
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.evaluators import examples, fingerprints, held_out, results, scoring
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.embed import Encoder, cosines
from naturel_jax.models.two_tower import Model, Params
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes.twins import FURTHER

_LOG = logging.getLogger(__name__)


class Evaluator:
    """Benchmarks and the encoder of one model. Compiled functions, pixels and tokens are kept between calls.

    ``overlaps``: benchmark -> ``held_out.count_overlaps``, of those for which there is a record."""

    def __init__(
        self,
        model: Model,
        processor: Processor,
        benchmarks: Sequence[Benchmark],
        *,
        overlaps: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
        mesh: Mesh | None = None,
        batch_size: int = 256,
    ):
        self._overlaps = overlaps
        self._encoder = Encoder(model, processor.for_benchmarks(), mesh=mesh, batch_size=batch_size)
        self._benchmarks = {benchmark.name: benchmark for benchmark in benchmarks}
        self.left_out = {b.name: len(b.left_out) for b in benchmarks if b.left_out}  # name -> items left out
        for name, number in self.left_out.items():
            _LOG.warning(
                "%s: %s of %s items are left out, since their images were trained on",
                name,
                f"{number:,}",
                f"{len(self._benchmarks[name].whole.items):,}",
            )

    def scores(self, params: Params, names: Collection[str] | None = None) -> dict[str, float]:
        """Metric name -> value for all benchmarks, or for those called ``names``. Items whose images cannot be read
        are left out and logged. Raises ValueError for an unknown name.
        """
        if unknown := sorted(set(names or ()) - set(self._benchmarks)):
            raise ValueError(f"benchmarks {unknown} are not among {', '.join(self._benchmarks)}")
        scores: dict[str, float] = {}
        for benchmark, items, matrices, _ in self._evaluated(params, names):
            scores |= {metric: score.value for metric, score in benchmark.score(items, matrices).items()}
        return scores

    def scores_with_intervals(
        self, params: Params, out: epath.Path, model: str, identity: str
    ) -> tuple[dict[str, float], Intervals]:
        """``scores`` of all benchmarks, and the 95% confidence interval of each (see ``confidence``). The first process
        also writes them to ``out``, item by item, as those of ``model`` (see ``results``), with the scores over the
        items that are left out, too; ``identity`` says what the parameters depend on."""
        scores: dict[str, float] = {}
        bounds: Intervals = {}
        for benchmark, items, matrices, problems in self._evaluated(params, None, whole=True):
            pair = fingerprints.of_pair(identity, benchmark)
            overlaps = self._overlaps.get(benchmark.name, {})
            result, table = scoring.score(model, benchmark, pair, (items, matrices, problems), found=overlaps)
            scores |= {name: score["value"] for name, score in result.scores.items()}
            bounds |= {name: (score["low"], score["high"]) for name, score in result.scores.items()}
            if jax.process_index() == 0:
                picked = scoring.pick(benchmark, table, examples.per_benchmark(len(self._benchmarks)))
                results.write(results.folder_of(out, model, benchmark.name), result, table, picked)
        return scores, bounds

    def found(self) -> dict[str, dict[str, int]]:
        """Benchmark -> the number of its ``items`` that are scored, and how those left out were found (see
        ``held_out.count_overlaps``)."""
        return {
            name: {"items": len(benchmark.items), **self._overlaps.get(name, {})}
            for name, benchmark in self._benchmarks.items()
        }

    def text_only(self) -> dict[str, float]:
        """Metric -> what n-grams score without an image (see ``blind.text_only``)."""
        return {name: score for one in self._benchmarks.values() for name, score in blind.text_only(one).items()}

    def _evaluated(
        self, params: Params, names: Collection[str] | None, whole: bool = False
    ) -> Iterator[tuple[Benchmark, Sequence[Item], Sequence[np.ndarray], Sequence[str]]]:
        """Each benchmark, its items whose images can be read, their cosines, and what could not be read. ``whole``:
        also of the items that are left out of its scores; a gallery always has them."""
        embedder = self._encoder.with_params(params)
        for name, benchmark in self._benchmarks.items():
            if names is None or name in names:
                every = benchmark.whole if whole or benchmark.gallery else benchmark
                kept, matrices, problems = cosines(every.items, embedder)
                for problem in problems:
                    _LOG.warning("%s: %s", name, problem)
                yield benchmark, kept, matrices, problems


def check_benchmarks(config: Config) -> None:
    """Raises UserError for files of ``config.eval`` that are not there; nothing is drawn, copied or read."""
    names = config.eval.benchmarks
    if any(registry.reads_dataset(name) for name in names):
        datasets.check_there(config.eval.naturel, config.data.dir)
    for own in filter(None, map(own_benchmarks.parse_name, names)):
        if not in_store(own.path):
            existing(own.path, own.kind)


def read_benchmarks(config: Config) -> list[Benchmark]:
    """The benchmarks of ``config.eval``. Raises UserError, also for a score ``interpolate_by`` that they do not
    have, and FileNotFoundError for missing files."""
    names, files = config.eval.benchmarks, config.eval.benchmarks_dir
    prepared = [name for name in names if registry.reads_dataset(name)]
    twins: list[str] = []
    official = [name for name in names if name not in prepared and not own_benchmarks.parse_name(name)]
    if official and not files:
        world = config.eval.naturel.removeprefix("naturel/")
        if world not in datasets.WORLDS:
            raise UserError(
                f"config.eval.benchmarks is {names}: set config.eval.benchmarks_dir to the folder with their files"
            )
        twins = official
        for further in sorted({name in FURTHER for name in official}):
            files = str(datasets.twins_directory(config.data.dir, world, config.data.cache_dir, further))
    cache_dir = config.data.cache_dir
    naturel = Path(datasets.directory(config.data.dir, config.eval.naturel, cache_dir)) if prepared else None
    places = {"files": staging.stage(files, cache_dir) if files else None, "naturel": naturel}
    read = registry.read(names, **places, fields=config.eval.fields, cache_dir=cache_dir)
    known = [metric.name for benchmark in read for metric in benchmark.metrics]
    if (by := config.eval.interpolate_by) and by not in known:
        raise UserError(
            f"config.eval.interpolate_by is {by!r}, which is no score of config.eval.benchmarks; {closest(by, known)}"
        )
    # A drawn world's twins have other items than the benchmarks of their names, not fewer.
    return [dataclasses.replace(one, published=None) if one.name in twins else one for one in read]


def make_evaluator(
    config: Config,
    benchmarks: Sequence[Benchmark],
    model: Model,
    processor: Processor,
    trained_on: TrainedOn,
    mesh: Mesh,
) -> Evaluator:
    """Evaluator of ``read_benchmarks(config)``, without the items that the run trains on."""
    kept = [held_out.hold_out(benchmark, trained_on) for benchmark in benchmarks]
    overlaps = {benchmark.name: held_out.count_overlaps(benchmark, trained_on) for benchmark in kept}
    return Evaluator(model, processor, kept, overlaps=overlaps, mesh=mesh, batch_size=config.eval.batch_size)
