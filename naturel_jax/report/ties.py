"""The best models of a column: the one with the highest score, and those that the items cannot tell apart from it.

Shape letters: N items.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.evaluators import confidence
from naturel_jax.evaluators.results import OUTCOME
from naturel_jax.report.tables import Cell

Items = Mapping[str, Mapping[str, Any]]  # item id -> its row in items.parquet


@dataclasses.dataclass(frozen=True)
class Scored:
    """A model's score in one column, its metric, and the items behind it."""

    cell: Cell
    metric: Metric
    items: Items


def best(scored: Mapping[str, Scored]) -> set[str]:
    """The models whose score is the highest, or whose difference from it has a 95% interval that includes 0."""
    if not scored:
        return set()
    top = max(scored, key=lambda name: scored[name].cell.value)
    return {top} | {name for name in scored if _tied(scored[top], scored[name])}


def _tied(a: Scored, b: Scored) -> bool:
    if a.cell.value == b.cell.value:
        return True
    if a.cell.interval and b.cell.interval and a.cell.interval[0] > b.cell.interval[1]:
        return False  # whatever their correlation, the difference is then more than its own 95% interval
    low, high = difference(a.items, b.items, a.metric)
    return low <= 0 <= high


def difference(a: Items, b: Items, metric: Metric) -> tuple[float, float]:
    """95% interval of the score in ``a`` minus that in ``b``, over the items that both have: a paired bootstrap over
    images. (0, 0) if they have none in common."""
    shared = [key for key in a if key in b]
    column = OUTCOME + metric.outcome
    difference_N = np.array([value_or_nan(a[key][column]) - value_or_nan(b[key][column]) for key in shared])
    items = [item(a[key]) for key in shared]
    benchmark = Benchmark("", tuple(items), lambda *_: {}, (metric,))
    bounds = confidence.intervals(benchmark, items, {metric.outcome: difference_N})
    return bounds.get(metric.name, (0.0, 0.0))


def value_or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def item(row: Mapping[str, Any]) -> Item:
    """The part of an item that resampling needs."""
    images: Sequence[Image] = [Image(key, bytes) for key in row["images"]]
    return Item(row["id"], tuple(images), (), row["tags"], weight=row.get("weight") or 1.0)
