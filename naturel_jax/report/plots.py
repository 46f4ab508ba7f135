"""Plots as PNG files, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# metric -> its name in plots, and the accuracy of a coin
CURVES = {
    "naturel/simple": ("NatuRel simple", 0.5),
    "naturel/complex": ("NatuRel complex", 0.5),
    "vg_relation/macro": ("VG-Relations", 0.5),
    "winoground/text": ("Winoground text", 0.25),
}


def accuracy_over_training(history: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]], path: Path) -> None:
    """Writes one panel per metric of ``CURVES`` that was measured, one curve per model. ``history``: model -> (step,
    {metric: value}) in order.
    """
    measured = {metric for points in history.values() for _, scores in points for metric in scores}
    curves = {metric: title_chance for metric, title_chance in CURVES.items() if metric in measured}
    if not curves:
        raise ValueError(f"nothing to plot: none of {', '.join(CURVES)} was measured")
    figure = Figure(figsize=(4 * len(curves), 3.4), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, (metric, (title, chance)) in zip(axes, curves.items(), strict=True):
        for model, points in history.items():
            measured_points = [(step, scores[metric]) for step, scores in points if metric in scores]
            if measured_points:
                axis.plot(*zip(*measured_points, strict=True), marker="o", markersize=3, label=model)
        axis.axhline(chance, color="0.6", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="training step", ylim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy (dotted: chance)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    FigureCanvasAgg(figure).print_png(path)
