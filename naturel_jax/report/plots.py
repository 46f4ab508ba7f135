"""Plots as PNG images, and as SVG that takes the colours of the page around it; drawn without a display."""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from naturel_jax.report.tables import Cell, ModelRow
from tfds_naturel.common import escape

History = Sequence[tuple[int, Mapping[str, float]]]  # (step, {metric: score}) in order
Losses = Sequence[tuple[int, float]]  # (step, loss) in order

# metric -> its name in plots
CURVES = {
    "naturel/simple": "NatuRel simple",
    "naturel/complex": "NatuRel complex",
    "vg_relation/macro": "VG-Relations",
    "winoground/text": "Winoground text",
}
RELATIONS = ("naturel/complex/relation/", "vg_relation/relation/", "vsr/relation/")  # prefixes of metrics per relation
MAX_RELATIONS = 20  # lines per panel: the relations with the most items

_WIDTH = 5.0  # inches: legible on a phone, where panels below one another fit
# Okabe and Ito's colours, safe for colour-blind readers; with five markers, they make 30 combinations.
_COLOURS, _MARKERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"), "osD^v"
_MARKS = "|x"  # of chance and the like
_INK = "#1c2430"  # of text and axes; in SVG, the page's
_THEME: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "naturel_jax"} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
)
_POINTS = 200  # most points of a curve of losses


class Plot(NamedTuple):
    """A plot in both formats, and what it shows; ``svg`` is an element of a page."""

    png: bytes
    svg: str
    text: str


def accuracy_over_training(
    histories: Mapping[str, Sequence[History]],
    score: str = "",
    chance: Mapping[str, float] = MappingProxyType({}),
) -> Plot | None:
    """One panel for ``score`` and each metric of ``CURVES`` that was measured more than once, one curve for each model:
    the mean of its runs, in a band from the lowest to the highest; None if there is no such metric. ``chance``: metric
    -> its chance level."""
    # A curve needs two points; metrics measured only at the end are in the tables.
    titles = CURVES | ({score: score} if score and score not in CURVES else {})
    every = [run for runs in histories.values() for run in runs]
    curves = [metric for metric in titles if any(len(_by_step(run, metric)) > 1 for run in every)]
    if not curves:
        return None
    with matplotlib.rc_context(_THEME):
        figure, axes = _panels([2.2] * len(curves))
        for axis, metric in zip(axes, curves, strict=True):
            for n, (model, runs) in enumerate(histories.items()):
                measured: dict[int, list[float]] = {}
                for run in runs:
                    for step, value in _by_step(run, metric).items():
                        measured.setdefault(step, []).append(value)
                steps = sorted(step for step, values in measured.items() if len(values) == len(runs))
                if steps:
                    axis.plot(steps, [np.mean(measured[s]) for s in steps], label=_literal(model), **_style(n))
                    lowest, highest = ([pick(measured[s]) for s in steps] for pick in (min, max))
                    axis.fill_between(steps, lowest, highest, color=_style(n)["color"], alpha=0.2, linewidth=0)
            if metric in chance:
                axis.axhline(chance[metric], color="0.6", linestyle=":", linewidth=1)
            axis.set(title=titles[metric], ylim=(0, 1), ylabel="accuracy")
        axes[-1].set_xlabel("training step" + " (dotted: chance)" * (not chance.keys().isdisjoint(curves)))
        seeds = ", the mean and range of several seeds" if any(len(runs) > 1 for runs in histories.values()) else ""
        return _rendered(figure, f"Accuracy by training step{seeds}; the numbers are in metrics.jsonl.")


def _by_step(run: History, metric: str) -> dict[int, float]:
    """Step -> the score of a run there; if it was evaluated again, the last."""
    return {step: scores[metric] for step, scores in run if metric in scores}


def loss_over_training(losses: Mapping[str, Sequence[Losses]]) -> Plot | None:
    """The training loss of each run, those of a model in one colour, averaged over neighbouring steps where there are
    many; None if no run has logged two."""
    if not any(len(run) > 1 for runs in losses.values() for run in runs):
        return None
    with matplotlib.rc_context(_THEME):
        figure, (axis,) = _panels([2.6])
        for n, (model, runs) in enumerate(losses.items()):
            for run in runs:
                parts = np.array_split(np.array(run, float).reshape(-1, 2), max(1, min(len(run), _POINTS)))
                points = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)
                axis.plot(*points.T, label=_literal(model), **_style(n) | {"marker": ""})
        axis.set(xlabel="training step", ylabel="loss")
        text = "Training loss by step, a line for each run; models with different objectives have different losses. "
        return _rendered(figure, f"{text}The numbers are in metrics.jsonl.")


def dots(
    rows: Sequence[ModelRow],
    labels: Mapping[str, str],
    marks: Mapping[str, Mapping[str, Cell]] = MappingProxyType({}),
) -> Plot:
    """Every model's score in each metric with its 95% interval. ``labels``: metric -> what it is called; ``marks``:
    what is marked in grey beside the models, such as chance -> metric -> score."""
    step = 1 / (len(rows) + 1)
    with matplotlib.rc_context(_THEME):
        figure, (axis,) = _panels([0.6 + len(labels) * max(0.24, 0.1 * len(rows))])
        place = {metric: k for k, metric in enumerate(labels)}
        for (name, scores), marker in zip(marks.items(), _MARKS, strict=False):
            known = [metric for metric in labels if metric in scores]
            values, heights = [scores[metric].value for metric in known], [place[metric] for metric in known]
            if known:
                axis.plot(values, heights, marker, color="0.55", markersize=7, label=_literal(name), zorder=1)
        for n, row in enumerate(rows):
            cells = {metric: row.cells[metric] for metric in labels if metric in row.cells}
            middles, errors = [cell.value for cell in cells.values()], _errors(cells.values())
            height = (n - (len(rows) - 1) / 2) * step
            style = _style(n) | {"linestyle": "", "elinewidth": 1}
            axis.errorbar(middles, [place[m] + height for m in cells], xerr=errors, label=_literal(row.name), **style)
        axis.set_yticks(range(len(labels)), [_literal(label) for label in labels.values()])
        axis.set(xlim=(-0.02, 1.02), ylim=(len(labels) - 0.4, -0.6), xlabel="score and its 95% interval")
        axis.grid(axis="y", color="0.6", alpha=0.25, linewidth=0.5)
        return _rendered(figure, "Score of each model with its 95% interval; the numbers are in scores.csv.")


def forgetting_against_gain(points: Mapping[str, tuple[Cell, Cell] | None], *, change: bool) -> Plot | None:
    """Compositions against retrieval and zero-shot classification. ``points``: every model, for its colour, -> its mean
    scores (kept, gained), or their ``change`` since its base, with intervals if it has some; None without any."""
    if not any(points.values()):
        return None
    with matplotlib.rc_context(_THEME):
        figure, (axis,) = _panels([3.5])
        for n, (model, point) in enumerate(points.items()):
            if point:
                style = _style(n) | {"linestyle": "", "markersize": 7, "elinewidth": 1}
                (x, y), (xerr, yerr) = [cell.value for cell in point], [_errors([cell]) for cell in point]
                axis.errorbar([x], [y], xerr=xerr, yerr=yerr, label=_literal(model), **style)
        what = "change of the mean" if change else "mean"
        axis.set(xlabel=f"kept: {what} of retrieval and zero-shot", ylabel=f"gained: {what} of compositions")
        axis.margins(0.2)
        if change:  # the base is where the lines meet
            axis.axhline(0, color="0.6", linewidth=1)
            axis.axvline(0, color="0.6", linewidth=1)
        return _rendered(figure, f"Scores on compositions against retrieval and zero-shot classification: {what}.")


def _errors(cells: Iterable[Cell]) -> np.ndarray:
    """How far the bounds of each cell's interval are from its value, [2, cells]; 0 without one."""
    distances = [(c.value - low, high - c.value) for c in cells for low, high in [c.interval or (c.value, c.value)]]
    return np.abs(np.array(distances, float).reshape(-1, 2).T)


def relations(rows: Sequence[ModelRow], prefix: str) -> list[str]:
    """The metrics that start with ``prefix``, those with the most items first."""
    metrics = {name for row in rows for name, cell in row.cells.items() if name.startswith(prefix) and cell.interval}
    return sorted(metrics, key=lambda metric: (-count(rows, metric), metric))[:MAX_RELATIONS]


def count(rows: Sequence[ModelRow], metric: str) -> int:
    """Number of items of a metric; 0 if it is not known."""
    return max((row.cells[metric].count or 0 for row in rows if metric in row.cells), default=0)


def _style(n: int) -> dict[str, Any]:
    colour, marker = _COLOURS[n % len(_COLOURS)], _MARKERS[n % len(_MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4, "linestyle": "-"}


def _literal(text: str) -> str:
    """``text`` escaped so that Matplotlib draws it literally: no formulas, and legends show a leading underscore too;
    shortened if it is long."""
    line = escape.line(text)
    line = line if len(line) <= 40 else f"{line[:39]}…"
    return f"{' ' * text.startswith('_')}{line}".replace("$", r"\$")


def _panels(heights: Sequence[float]) -> tuple[Figure, Sequence[Axes]]:
    """Panels below one another, of these heights in inches."""
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.5), layout="constrained", dpi=160)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    return figure, list(axes)


def _rendered(figure: Figure, text: str) -> Plot:
    labelled: dict[str, Artist] = {}
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        labelled.update(zip(labels, handles, strict=True))
    columns = max(1, min(3, 54 // (6 + max(map(len, labelled), default=0))))  # about 54 characters fit into the width
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * math.ceil(len(labelled) / columns))
    figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=columns, frameon=False)
    png, svg = io.BytesIO(), io.StringIO()
    FigureCanvasAgg(figure).print_png(png)
    figure.set_layout_engine("none")  # the SVG has the layout of the PNG
    for patch in (figure.patch, *(axis.patch for axis in figure.axes)):
        patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(svg, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Plot(png.getvalue(), _element(svg.getvalue()), text)


def _element(svg: str) -> str:
    """The element of an SVG file for a page: it fills its width, takes its colour, and has no ids that another plot has
    too (those of markers and clip paths are digests of them)."""
    element = re.sub(r' id="[A-Za-z]+_\d+"| xmlns(:xlink)?="[^"]*"|<!--.*?-->', "", svg[svg.index("<svg") :])
    element = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg role="img" \1>', element)
    return element.replace(_INK, "currentColor")
