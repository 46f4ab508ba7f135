"""What the exchanges of captions cost on chips that are not here, as a table or a chart.

    python -m perf.exchange
    python -m perf.exchange --plot docs/assets/exchange.svg   # the chart of docs/losses.md, which `make pages` draws

The table is also the description in the chart's file: by it, a test sees whether the file is up to date.
"""

import argparse
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, StrMethodFormatter

from naturel_jax.config import Config
from naturel_jax.devices.hardware import SPEED_KNOWN
from naturel_jax.losses.tiles import EXCHANGES
from naturel_jax.training import exchange, memory
from naturel_jax.training.exchange import Cost
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

KIND, WIDTH = "TPU v5 lite", 768  # a v5e, and the width of SigLIP B/16
ROWS = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
CHIPS = [8, 64, 256, 1024]


class Estimate(NamedTuple):
    """``costs`` of the exchanges, and the one that ``auto`` becomes."""

    costs: Mapping[str, Cost]
    auto: str


def estimate(kind: str, width: int, rows: int, chips: int) -> Estimate:
    """For ``rows`` images and as many captions on each chip. Raises UserError if the chip's speed is not known."""
    costs = exchange.costs(kind, exchange.Sizes(chips, rows, rows, width, Config().objective.tile))
    limit = memory.usable(kind)
    if costs is None or limit is None:
        raise UserError(f"--kind {kind}: its speed is not known; expected one of {', '.join(SPEED_KNOWN)}")
    return Estimate(costs, exchange.best(costs, limit))


def table(kind: str, width: int, rows: Sequence[int], chips: Sequence[int]) -> str:
    """One line for each number of rows on a chip and number of chips."""
    lines = [
        f"{kind}: as many images as captions, of width {width}; one pass for the value and one for the gradient",
        f"{'':16}{'waiting for captions (ms)':>42}{'memory of the loss (MB)':>42}",
        f"{'rows':>7}{'chips':>9}" + "".join(f"{name:>14}" for name in (*EXCHANGES, *EXCHANGES, "auto")),
    ]
    for count, devices in itertools.product(rows, chips):
        costs, auto = estimate(kind, width, count, devices)
        cells = [1e3 * costs[name].waiting for name in EXCHANGES] + [costs[name].memory / 1e6 for name in EXCHANGES]
        lines.append(f"{count:7,}{devices:9,}" + "".join(f"{x:14,.2f}" for x in cells) + f"{auto:>14}")
    return "\n".join(lines)


# ---- The chart -------------------------------------------------------------------------------------------------------

QUANTITIES = {"waiting": ("waiting for captions", "s"), "memory": ("memory of the loss", "B")}  # fields of ``Cost``
_INK = "#808080"  # stands out from white and from the background of dark pages, which shows through
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
# Okabe and Ito's colours, as in report/plots.py: those three that stand out from white.
STYLES = {
    "ring": {"color": "#0072b2", "label": "ring"},
    "two_way_ring": {"color": "#d55e00", "label": "two-way ring", "linestyle": "--"},
    "gather": {"color": "#009e73", "label": "gather"},
}


@matplotlib.rc_context(dict.fromkeys(_INKED, _INK))
def chart(kind: str, width: int, rows: Sequence[int], chips: Sequence[int]) -> Figure:
    """A column of panels for each number of chips, and in each panel a line for each exchange over the number of rows
    on a chip. Both axes are logarithmic; points mark the exchange that ``auto`` becomes."""
    figure = Figure(figsize=(8, 6), layout="constrained")  # inches
    grid = figure.subplots(len(QUANTITIES), len(chips), sharex=True, sharey="row", squeeze=False)
    for column, devices in zip(grid.T, chips, strict=True):
        estimates = [estimate(kind, width, count, devices) for count in rows]
        column[0].set_title(f"{devices:,} chips")
        for axis, (field, (_, unit)) in zip(column, QUANTITIES.items(), strict=True):
            for name, style in STYLES.items():
                values = [getattr(each.costs[name], field) for each in estimates]
                of_auto = [n for n, each in enumerate(estimates) if each.auto == name]
                axis.plot(rows, values, marker="o", markersize=4, markevery=of_auto, **style)
            axis.set(xscale="log", yscale="log")
            axis.xaxis.set(major_locator=FixedLocator(rows[::3]), major_formatter=StrMethodFormatter("{x:,.0f}"))
            axis.yaxis.set_major_formatter(EngFormatter(unit))
            axis.minorticks_off()
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", color="0.6", alpha=0.25, linewidth=0.5)
    for axis, (title, _) in zip(grid[:, 0], QUANTITIES.values(), strict=True):
        axis.set_ylabel(title)
    _draw_limits(grid[-1], memory.usable(kind), rows[0])
    figure.supxlabel("images, and as many captions, on a chip", fontsize="medium")
    handles = [Line2D([], [], **style) for style in STYLES.values()]
    handles.append(Line2D([], [], color=_INK, marker="o", markersize=4, linestyle="", label="the choice of auto"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _draw_limits(axes: Sequence[Axes], limit: int, left: float) -> None:
    """Dotted lines at the memory of a chip and at the share of it up to which ``auto`` may gather."""
    for value, label in ((limit, "memory of a chip"), (exchange.SHARE * limit, "auto may gather\nup to here")):
        for axis in axes:
            axis.axhline(value, color=_INK, linestyle=":", linewidth=1)
        axes[0].text(left, value, label, fontsize="small", va="bottom")


def svg(figure: Figure, title: str, description: str) -> bytes:
    """The same bytes each time with one version of Matplotlib; text stays text."""
    buffer, fields = io.BytesIO(), {"Title": title, "Description": description, "Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "exchange", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=fields, transparent=True)
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default=KIND)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--chips", type=int, nargs="+", default=CHIPS)
    parser.add_argument("--plot", type=Path, help="an SVG file to draw, instead of a table")
    args = parser.parse_args(arguments)
    sizes = (args.kind, args.width, args.rows, args.chips)
    if args.plot:
        args.plot.write_bytes(svg(chart(*sizes), f"Exchanges of captions on {args.kind}", table(*sizes)))
    else:
        print(table(*sizes))


if __name__ == "__main__":
    cli.run(main)
