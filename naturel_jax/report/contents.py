"""What a report has, before it is Markdown, LaTeX or a page. Shape letter: R resamples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from naturel_jax.evaluators.examples import Example
from naturel_jax.report.plots import History, Losses, Plot
from naturel_jax.report.tables import Cell, Cited, ModelRow


class Section(NamedTuple):
    """A further part of a report: a table of text and scores, text, a command, and a plot, whose file is called
    ``key``. ``words``: the table's cells are words, not numbers. ``heat``: cells take the colour of their score."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str | Cell | Cited | None]] = ()
    text: Sequence[str] = ()
    command: str = ""
    words: bool = False
    heat: bool = False
    plot: Plot | None = None
    key: str = ""


class Change(NamedTuple):
    """A score minus that of the base: its value, and what it is on each resample [R] of the images."""

    value: float
    resampled_R: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """``rows``: models, published systems, baselines. ``histories``: model -> the scores of its runs during training,
    and ``losses`` their training losses. ``left_out``: what the scores leave out, one line each. ``trained_on``: which
    images may have been trained on. ``seeds``: model -> number of seeds that its scores are means of; empty: one of
    each. ``score``: see ``plots``. ``ties``: items whose right and wrong answers score the same, one line for each
    model and benchmark with any. ``examples``: model -> items that it gets right and wrong. ``made``: where the scores
    come from, only in the page. ``bases``: model -> the model that it started from; ``changes``: see
    ``overview.Changes``. ``agreement``: between models."""

    rows: Sequence[ModelRow]
    histories: Mapping[str, Sequence[History]] = dataclasses.field(default_factory=dict)
    left_out: Sequence[str] = ()
    trained_on: Sequence[Section] = ()
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sections: Sequence[Section] = ()
    score: str = ""
    ties: Sequence[str] = ()
    title: str = "Scores"
    losses: Mapping[str, Sequence[Losses]] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, Sequence[Example]] = dataclasses.field(default_factory=dict)
    made: Sequence[Section] = ()
    bases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Change]] = dataclasses.field(default_factory=dict)
    agreement: Sequence[Section] = ()
