"""Scores parameters of one model on benchmarks: what a training run asks for on its schedule."""

import logging
from collections.abc import Collection, Sequence

from jax.sharding import Mesh

from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.data.processor import Processor
from naturel_jax.evaluators.embed import Encoder, cosines
from naturel_jax.models.two_tower import Model, Params

_LOG = logging.getLogger(__name__)


class Evaluator:
    """Benchmarks, and the encoder of one model. What is compiled, decoded and tokenised is kept between calls."""

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
