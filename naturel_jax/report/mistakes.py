"""The page on evaluation mistakes: scores with and without each, and which comes nearest to a published row."""

from collections.abc import Mapping, Sequence

import numpy as np

from naturel_jax.evaluators.results import Result
from naturel_jax.report import published, tables
from naturel_jax.report.report import cells
from naturel_jax.report.tables import MEASURED, MISTAKE, ModelRow
from tfds_naturel.common import escape

RIGHT = "without a mistake"
INTRODUCTION = (
    "Scores of evaluations that are wrong on purpose, to explain a score that differs from the published one. Only the "
    f"rows *{RIGHT}* are scores of a model."
)


def page(models: Mapping[str, str]) -> str:
    """The page; ``models``: model -> its ``section``."""
    sections = (f"## {escape.markdown(model)}\n\n{text}" for model, text in models.items())
    return "\n\n".join(["# Mistakes of evaluation", INTRODUCTION, *sections]) + "\n"


def section(
    model: str,
    source: str,
    right: Sequence[Result],
    mistakes: Mapping[str, Sequence[Result] | None],
    official: Sequence[str],
    meanings: Mapping[str, str],
) -> str:
    """The section on one model, in Markdown, beside the published scores of a checkpoint that has its name or source.

    ``mistakes``: name -> results with it, None if it cannot be made with this model; ``meanings``: name -> what goes
    wrong. ``official``: the benchmarks whose items are the published ones.
    """
    rows = [_row(RIGHT, MEASURED, right)]
    rows += [_row(name, MISTAKE, found) for name, found in mistakes.items() if found]
    reference = published.rows(official, lambda one: one.name == model or one.is_at(source))
    shown = tables.tables_of(rows[0].cells)
    parts = [tables.markdown(table, [*rows, *reference]).rstrip("\n") for table in shown]
    parts.append("\n".join(f"- *{name}*: {meanings[name]}{_without(found)}." for name, found in mistakes.items()))
    return "\n\n".join(parts + [nearest(rows, row) for row in reference])


def _row(name: str, kind: str, found: Sequence[Result]) -> ModelRow:
    return ModelRow(name, kind, {metric: cell for result in found for metric, cell in cells(result).items()})


def _without(found: Sequence[Result] | None) -> str:
    return "" if found else "; cannot be made with this model and these benchmarks"


def nearest(rows: Sequence[ModelRow], reference: ModelRow) -> str:
    """A line on how far the scores of ``rows`` are from those of ``reference``, the nearest first. Only rows with all
    the scores that the first one shares with the reference are compared."""
    metrics = [metric for metric in reference.cells if metric in rows[0].cells]
    compared = [row for row in rows if row.cells.keys() >= set(metrics)]
    distances = {
        row.name: float(np.mean([abs(row.cells[m].value - reference.cells[m].value) for m in metrics]))
        for row in compared
    }
    order = sorted(distances, key=lambda name: distances[name])
    texts = ", ".join(f"{escape.markdown(name)} {distances[name]:.3f}" for name in order)
    return f"Mean distance from {escape.markdown(reference.name)} over {len(metrics)} scores: {texts}."
