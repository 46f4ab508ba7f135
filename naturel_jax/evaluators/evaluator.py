"""Scores the parameters of one model on benchmarks, as a training run does on its schedule."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.config import Config
from naturel_jax.data import datasets, staging
from naturel_jax.data.processor import Processor
from naturel_jax.evaluators.embed import Encoder, cosines
from naturel_jax.models.two_tower import Model, Params
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)


class Evaluator:
    """Benchmarks, and the encoder of one model. Compiled functions, pixels and tokens are kept between calls."""

    def __init__(
        self,
        model: Model,
        processor: Processor,
        benchmarks: Sequence[Benchmark],
        *,
        mesh: Mesh | None = None,
        batch_size: int = 256,
    ):
        self._encoder = Encoder(model, processor, mesh=mesh, batch_size=batch_size)
        self._benchmarks = {benchmark.name: benchmark for benchmark in benchmarks}

    def scores(self, params: Params, names: Collection[str] | None = None) -> dict[str, float]:
        """Metric name -> value for all benchmarks, or for those called ``names``. Items whose images cannot be read
        are left out and logged. Raises ValueError for an unknown name.
        """
        if unknown := sorted(set(names or ()) - set(self._benchmarks)):
            raise ValueError(f"benchmarks {unknown} are not among {', '.join(self._benchmarks)}")
        embedder = self._encoder.with_params(params)
        scores: dict[str, float] = {}
        for name, benchmark in self._benchmarks.items():
            if names is None or name in names:
                kept, matrices, problems = cosines(benchmark.items, embedder)
                for problem in problems:
                    _LOG.warning("%s: %s", name, problem)
                scores |= {metric: score.value for metric, score in benchmark.score(kept, matrices).items()}
        return scores


def make_evaluator(
    config: Config, model: Model, processor: Processor, trained_on: Mapping[str, Sequence[str]], mesh: Mesh
) -> Evaluator:
    """Evaluator of the benchmarks of ``config.eval``, without the items that the run trains on. Raises UserError."""
    names, files = config.eval.benchmarks, config.eval.benchmarks_dir
    prepared = [name for name in names if registry.reads_dataset(name)]
    if len(prepared) < len(names) and not files:
        world = config.eval.naturel.removeprefix("naturel/")
        if world not in datasets.WORLDS:
            raise UserError(
                f"config.eval.benchmarks is {names}: set config.eval.benchmarks_dir to the folder with their files"
            )
        files = str(datasets.twins_directory(config.data.dir, world, config.data.cache_dir))
    cache_dir = config.data.cache_dir
    naturel = Path(datasets.directory(config.data.dir, config.eval.naturel, cache_dir)) if prepared else None
    benchmarks = registry.read(names, files=staging.stage(files, cache_dir) if files else None, naturel=naturel)
    kept = [benchmark.held_out(frozenset(trained_on.get(benchmark.name, ()))) for benchmark in benchmarks]
    return Evaluator(model, processor, kept, mesh=mesh, batch_size=config.eval.batch_size)
