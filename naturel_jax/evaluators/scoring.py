"""The scores of one model on one benchmark, from the cosines of its items."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from etils import epath

from naturel_jax.benchmarks import blind, shortcuts
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes
from naturel_jax.evaluators import confidence, examples, results
from naturel_jax.evaluators.examples import Example
from naturel_jax.evaluators.results import Result
from naturel_jax.storage.locks import locked


def save(
    out: Path,
    model: str,
    benchmark: Benchmark,
    fingerprint: str,
    embedded: tuple[Sequence[Item], Sequence[np.ndarray], Sequence[str]],
    norms: Mapping[str, float],
    found: Mapping[str, int] | None = None,
    shown: int = 0,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> Result:
    """Scores what ``embed.cosines`` returned for the items of ``benchmark.whole``, and writes both files to the folder
    of (model, benchmark).

    Each replaces the old one atomically, and the scores hold the checksum of the rows, so that the rows of one
    evaluation are never taken for those of another, even after a crash or if two processes evaluate at the same time
    (they write in turn).

    ``norms``: caption -> length of its embedding, for the blind baselines. ``found``: see ``Result``. ``shown``: see
    ``pick``. ``embeddings``: see ``score``.
    """
    result, table = score(model, benchmark, fingerprint, embedded, norms, found, embeddings)
    picked = pick(benchmark, table, shown)
    folder = results.folder_of(out, model, benchmark.name)
    folder.mkdir(parents=True, exist_ok=True)  # for the lock
    with locked(folder / ".lock"):
        results.write(epath.Path(folder), result, table, picked)
    return result


def pick(benchmark: Benchmark, table: pa.Table, number: int) -> list[Example]:
    """``number`` items that are right by the outcome of the benchmark's first metric, and as many that are wrong."""
    outcome = results.OUTCOME + benchmark.metrics[0].outcome if benchmark.metrics else ""
    return examples.choose(benchmark, table, outcome, number) if outcome in table.column_names else []


def score(
    model: str,
    benchmark: Benchmark,
    fingerprint: str,
    embedded: tuple[Sequence[Item], Sequence[np.ndarray], Sequence[str]],
    norms: Mapping[str, float] | None = None,
    found: Mapping[str, int] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> tuple[Result, pa.Table]:
    """The scores and the table of items that ``save`` writes; without ``norms``, there are no blind baselines. With
    ``embeddings``, of the captions of a benchmark with ``true_captions``, also the scores without shortcuts."""
    every_item, every_matrix, problems = embedded
    items, matrices, outcomes = benchmark.judge(every_item, every_matrix)
    with_trained_on = benchmark.whole.score(every_item, every_matrix) if benchmark.left_out else {}
    scores = _scores(benchmark, items, outcomes)
    baselines = {} if norms is None else blind.baselines(benchmark, items, matrices, norms)
    if embeddings and norms and items:
        values = blind.embedded(items, benchmark.true_captions, embeddings, norms)
        guessed = blind.outcomes(benchmark, items, values, matrices)
        baselines[blind.EMBEDDING] = blind.scores(benchmark, items, guessed)
    result = Result(
        model=model,
        benchmark=benchmark.name,
        fingerprint=fingerprint,
        items=len(items),
        published=benchmark.published,
        unreadable=len(benchmark.items) - len(items),
        problems=(*benchmark.problems, *problems),
        scores=scores,
        blind=baselines,
        metrics={metric.name: metric for metric in benchmark.metrics if metric.name in scores},
        left_out=len(benchmark.left_out),
        with_trained_on={name: score.value for name, score in with_trained_on.items()},
        found=found,
        ties=int(np.nansum(outcomes.get("tie", 0))),
        chance={name: value for name, value in benchmark.guess(items, every_item).items() if name in scores},
        shortcuts=None if embeddings is None else _without_shortcuts(benchmark, items, matrices, outcomes),
    )
    return result, results.table(items, matrices, outcomes)


def _without_shortcuts(
    benchmark: Benchmark, items: Sequence[Item], matrices: Sequence[np.ndarray], outcomes: Outcomes
) -> dict[str, dict[str, dict[str, float]]]:
    """Part -> ``_scores`` on its items; empty for retrieval and classification, which have no such parts."""
    if not items or not shortcuts.is_compared(benchmark):
        return {}
    parts = shortcuts.parts(benchmark, items, matrices).items()
    return {part: _scores(benchmark, items, shortcuts.masked(outcomes, kept)) for part, kept in parts}


def _scores(benchmark: Benchmark, items: Sequence[Item], outcomes: Outcomes) -> dict[str, dict[str, float]]:
    """Metric -> {value, count, low, high}."""
    if not items:
        return {}
    bounds = confidence.intervals(benchmark, items, outcomes)
    return {
        name: {"value": score.value, "count": score.count, "low": bounds[name][0], "high": bounds[name][1]}
        for name, score in benchmark.means(benchmark.metrics, items, outcomes).items()
    }
