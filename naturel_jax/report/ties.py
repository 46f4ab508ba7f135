"""The best models of a column: the one with the best score on the items that all models have, and those that these
cannot tell apart from it.

Shape letters: N items.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, Outcomes, sign
from naturel_jax.evaluators import confidence
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.results import OUTCOME
from naturel_jax.report.tables import Cell

Items = Mapping[str, Mapping[str, Any]]  # item id -> its row in items.parquet


class Scored(NamedTuple):
    """A model's score in one column, and its metric."""

    cell: Cell
    metric: Metric


def best(scored: Mapping[str, Mapping[str, Scored]], items: Mapping[str, Items]) -> set[tuple[str, str]]:
    """The (model, metric) pairs, of metric -> model -> score, whose score is the best of the metric, or whose
    difference from it has a 95% interval that includes 0, over the items that all models have; none if there are none.
    ``items``: model -> the items behind its scores."""
    scored, items = _on_shared(scored, items)
    found: set[tuple[str, str]] = set()
    undecided: dict[tuple[str, str], dict[str, Metric]] = {}  # best model, other -> metrics that the items decide
    for name, models in scored.items():
        top = max(models, key=lambda model: sign(name) * models[model].cell.value)
        for model, one in models.items():
            if one.cell.value == models[top].cell.value:
                found.add((model, name))
            elif not _are_apart(models[top].cell, one.cell):
                undecided.setdefault((top, model), {})[name] = one.metric
    for (top, model), metrics in undecided.items():
        bounds = differences(items[top], items[model], list(metrics.values()))
        for name, metric in metrics.items():
            low, high = bounds.get(metric.name, (0.0, 0.0))
            if low <= 0 <= high:
                found.add((model, name))
    return found


def _on_shared(
    scored: Mapping[str, Mapping[str, Scored]], items: Mapping[str, Items]
) -> tuple[Mapping[str, Mapping[str, Scored]], Mapping[str, Items]]:
    """The items that all scored models have, and the scores on these, without intervals if they are other scores; a
    model that lacks the hard items, since it was trained on their images, would be the best otherwise."""
    models = {model: items[model] for of_metric in scored.values() for model in of_metric}
    shared = {key for rows in models.values() for key in rows}.intersection(*models.values())
    if all(len(rows) == len(shared) for rows in models.values()):
        return scored, items
    models = {model: {key: row for key, row in rows.items() if key in shared} for model, rows in models.items()}
    found: dict[str, dict[str, Scored]] = {}
    for model, rows in models.items():
        metrics = [of_metric[model].metric for of_metric in scored.values() if model in of_metric]
        benchmark = resampled(metrics[0].name.split("/")[0], list(map(item, rows.values())), metrics)
        scores = benchmark.means(metrics, benchmark.items, outcomes(rows, list(rows), metrics))
        for metric in metrics:
            if metric.name in scores:
                found.setdefault(metric.name, {})[model] = Scored(Cell(scores[metric.name].value), metric)
    return found, models


def _are_apart(a: Cell, b: Cell) -> bool:
    """Whether the intervals do not overlap: whatever the correlation of the scores, their difference is then more than
    its own 95% interval."""
    return bool(a.interval and b.interval and max(a.interval[0], b.interval[0]) > min(a.interval[1], b.interval[1]))


def differences(a: Items, b: Items, metrics: Sequence[Metric]) -> Intervals:
    """Metric -> 95% interval of the score in ``a`` minus that in ``b``, over the items that both have: a paired
    bootstrap over images, the same for all metrics. Those of which they have no item in common are left out."""
    shared = [key for key in a if key in b]
    of_a, of_b = (outcomes(rows, shared, metrics) for rows in (a, b))
    items = [item(a[key]) for key in shared]
    benchmark = resampled(metrics[0].name.split("/")[0], items, metrics)
    return confidence.intervals(benchmark, items, {name: of_a[name] - of_b[name] for name in of_a})


def outcomes(rows: Items, ids: Sequence[str], metrics: Sequence[Metric]) -> Outcomes:
    """The outcomes [N] that ``metrics`` need of the items ``ids``; NaN where there is none."""
    names = {metric.outcome for metric in metrics}
    return {name: np.array([rows[key].get(OUTCOME + name) for key in ids], float) for name in names}


def resampled(name: str, items: Sequence[Item], metrics: Sequence[Metric]) -> Benchmark:
    """The part of the benchmark called ``name`` that resampling needs, from its results."""
    return Benchmark(name, items, lambda *_: {}, metrics, together=registry.together(name))


def item(row: Mapping[str, Any]) -> Item:
    """The part of an item that resampling needs."""
    images: Sequence[Image] = [Image(key, bytes) for key in row["images"]]
    return Item(row["id"], tuple(images), (), row["tags"], weight=row["weight"])
