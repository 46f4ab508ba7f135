"""Plots as PNG files, drawn without a display."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from naturel_jax.report.tables import Rows
from tfds_naturel import escape

# metric -> its name in plots, and chance accuracy
CURVES = {
    "naturel/simple": ("NatuRel simple", 0.5),
    "naturel/complex": ("NatuRel complex", 0.5),
    "vg_relation/macro": ("VG-Relations", 0.5),
    "winoground/text": ("Winoground text", 0.25),
}
RELATIONS = ("naturel/complex/relation/", "vg_relation/relation/")  # prefixes of metrics per relation
MAX_RELATIONS = 20  # bars per panel: the relations with the most items
# Metrics (or prefixes of metrics) that fine-tuning lowers, and those that it is meant to raise.
FORGETTING = ("coco_retrieval/image_to_text@1", "flickr30k_retrieval/image_to_text@1", "zeroshot/")
GAIN = ("naturel/complex", "vg_relation/macro", "winoground/text")


def accuracy_over_training(history: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]], path: Path) -> bool:
    """Writes one panel per metric of ``CURVES`` that was measured more than once, one curve per model; returns False
    if none was. ``history``: model -> (step, {metric: value}) in order.
    """
    # A curve needs two points; metrics measured only at the end are in the tables.
    counted = [collections.Counter(metric for _, scores in points for metric in scores) for points in history.values()]
    measured = {metric for count in counted for metric, times in count.items() if times > 1}
    curves = {metric: title_chance for metric, title_chance in CURVES.items() if metric in measured}
    if not curves:
        return False
    figure = Figure(figsize=(4 * len(curves), 3.4), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, (metric, (title, chance)) in zip(axes, curves.items(), strict=True):
        for model, points in history.items():
            measured_points = [(step, scores[metric]) for step, scores in points if metric in scores]
            if measured_points:
                axis.plot(*zip(*measured_points, strict=True), marker="o", markersize=3, label=_literal(model))
        axis.axhline(chance, color="0.6", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="training step", ylim=(0, 1))
    axes[0].set_ylabel("accuracy (dotted: chance)")
    _save(figure, axes, path)
    return True


def by_relation(rows: Rows, counts: Mapping[str, int], path: Path) -> bool:
    """Bars of every model for each relation, one panel per benchmark. ``counts``: metric -> items. Returns False
    if nothing was measured.
    """
    panels = {}
    for prefix in RELATIONS:
        metrics = sorted(
            {metric for scores in rows.values() for metric in scores if metric.startswith(prefix)},
            key=lambda metric: (-counts.get(metric, 0), metric),
        )
        if metrics:
            panels[prefix] = metrics[:MAX_RELATIONS]
    if not panels:
        return False
    tallest = max(len(metrics) for metrics in panels.values())
    figure = Figure(figsize=(5.5 * len(panels), 1 + 0.12 * tallest * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    height = 0.8 / len(rows)
    for axis, (prefix, metrics) in zip(axes, panels.items(), strict=True):
        for n, (model, scores) in enumerate(rows.items()):
            values = [scores.get(metric, np.nan) for metric in metrics]
            axis.barh(np.arange(len(metrics)) + n * height, values, height, label=_literal(model))
        labels = [f"{_literal(metric.removeprefix(prefix))} ({counts.get(metric, 0):,})" for metric in metrics]
        axis.set_yticks(np.arange(len(metrics)) + height * (len(rows) - 1) / 2, labels)
        axis.axvline(0.5, color="0.3", linestyle=":", linewidth=1)
        title = prefix.split("/")[0]
        axis.set(title=title, xlabel="accuracy (dotted: chance)", xlim=(0, 1), ylim=(tallest - 0.1, -0.5))
    _save(figure, axes, path)
    return True


def forgetting_against_gain(rows: Rows, path: Path) -> bool:
    """Plots accuracy on compositions against retrieval or zero-shot accuracy. Returns False if no model has both."""
    points = {}
    for model, scores in rows.items():
        gains = [scores[metric] for metric in GAIN if metric in scores]
        remembered = [
            value for metric, value in scores.items() if metric.startswith(FORGETTING) and not metric.endswith("top5")
        ]
        if gains and remembered:
            points[model] = (float(np.mean(remembered)), float(np.mean(gains)))
    if not points:
        return False
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    for model, (kept, gain) in points.items():
        axis.plot(kept, gain, "o", label=_literal(model))
        axis.annotate(_literal(model), (kept, gain), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel="kept: mean recall@1 and zero-shot accuracy", ylabel="gained: mean accuracy on compositions")
    axis.margins(0.2)
    _save(figure, [], path)
    return True


def _literal(text: str) -> str:
    """``text`` as Matplotlib draws it literally: without formulas, and in legends also with an underscore first."""
    return f"{' ' * text.startswith('_')}{escape.line(text)}".replace("$", r"\$")


def _save(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    if len(axes):
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    FigureCanvasAgg(figure).print_png(path)
