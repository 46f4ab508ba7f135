"""What the exchanges of captions cost on chips that are not here (``naturel_jax/exchange.py``), as a table or a chart.

    python perf/exchange.py                                   # or: python -m perf.exchange
    python perf/exchange.py --plot docs/assets/exchange.svg   # the chart of docs/losses.md, which `make pages` draws

The chart is written as SVG without a library: its bytes are the same with all versions of Matplotlib, its text stays
text, and its colours follow the reader's light or dark scheme.
"""

import argparse
import html
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from naturel_jax import exchange, memory
from naturel_jax.compiled import SPEEDS
from naturel_jax.config import Config
from naturel_jax.exchange import Cost
from naturel_jax.tiles import EXCHANGES
from tfds_naturel import cli
from tfds_naturel.errors import UserError

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
        raise UserError(f"--kind {kind}: its speed is not known; expected one of {', '.join(SPEEDS)}")
    return Estimate(costs, exchange.best(costs, limit))


def print_table(kind: str, width: int, rows: Sequence[int], chips: Sequence[int]) -> None:
    """Prints one line for each number of rows on a chip and number of chips."""
    print(f"{kind}: as many images as captions, of width {width}; one pass for the value and one for the gradient")
    print(f"{'':16}{'waiting for captions (ms)':>42}{'memory of the loss (MB)':>42}")
    print(f"{'rows':>7}{'chips':>9}" + "".join(f"{name:>14}" for name in (*EXCHANGES, *EXCHANGES, "auto")))
    for count, devices in itertools.product(rows, chips):
        costs, auto = estimate(kind, width, count, devices)
        cells = [1e3 * costs[name].waiting for name in EXCHANGES] + [costs[name].memory / 1e6 for name in EXCHANGES]
        print(f"{count:7,}{devices:9,}" + "".join(f"{x:14,.2f}" for x in cells) + f"{auto:>14}")


# ---- The chart -------------------------------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """What a row of panels shows. ``ticks``: of its axis, from one end to the other."""

    title: str
    ticks: Mapping[float, str]
    of: Callable[[Cost], float]


QUANTITIES = (
    Quantity(
        "waiting for captions",
        {1e-5: "10 µs", 1e-4: "0.1 ms", 1e-3: "1 ms", 1e-2: "10 ms", 0.1: "0.1 s", 1.0: "1 s"},
        lambda cost: cost.waiting,
    ),
    Quantity(
        "memory of the loss",
        {1e6: "1 MB", 1e7: "10 MB", 1e8: "100 MB", 1e9: "1 GB", 1e10: "10 GB", 1e11: "100 GB"},
        lambda cost: cost.memory,
    ),
)
LABELS = {"ring": "ring", "two_way_ring": "two-way ring", "gather": "gather"}

_LEFT, _TOP, _WIDE, _HIGH, _GAP = 66, 84, 162, 190, 12  # of the panels, in pixels
_BETWEEN = 74  # rows of panels
_INSET = 12  # of the first and last value in a panel
# Okabe and Ito's colours, as in report/plots.py: those three that are legible on both backgrounds.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2430 }
.title { font-weight: 600 }
.page { fill: #ffffff }
.grid { stroke: #d9dde4; fill: none }
.limit { stroke: #1f2430; stroke-dasharray: 2 3 }
polyline { fill: none; stroke-width: 2 }
circle { stroke-width: 2; fill: #ffffff }
.ring { stroke: #0072b2 } circle.ring.auto { fill: #0072b2 }
.two_way_ring { stroke: #d55e00 } circle.two_way_ring.auto { fill: #d55e00 }
polyline.two_way_ring { stroke-dasharray: 7 5 }
.gather { stroke: #009e73 } circle.gather.auto { fill: #009e73 }
@media (prefers-color-scheme: dark) {
text { fill: #e7eaf0 }
.page, circle { fill: #171c25 }
.grid { stroke: #3b4352 }
.limit { stroke: #e7eaf0 }
}
"""


def chart(kind: str, width: int, rows: Sequence[int], chips: Sequence[int]) -> str:
    """An SVG image: a column of panels for each number of chips, and in each panel a line for each exchange over the
    number of rows on a chip. Both axes are logarithmic; points of the exchange that ``auto`` becomes are filled."""
    right = _LEFT + len(chips) * (_WIDE + _GAP)
    bottom = _TOP + len(QUANTITIES) * (_HIGH + _BETWEEN) - 44
    title = f"Waiting for captions and memory of the loss on {kind}, by exchange"
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" role="img" aria-labelledby="t d">',
        f'<title id="t">{html.escape(title)}</title>',
        f'<desc id="d">{html.escape(description(kind, width, rows, chips))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{right}" height="{bottom}"/>',
        *_legend(),
    ]
    for line, quantity in enumerate(QUANTITIES):
        top = _TOP + line * (_HIGH + _BETWEEN)
        body.append(_text(_LEFT, top - 26, f"{quantity.title}, by images and captions on a chip", "title"))
        body += _ticks(quantity, top)
        for column, devices in enumerate(chips):
            estimates = [estimate(kind, width, count, devices) for count in rows]
            body += _panel(quantity, rows, estimates, f"{devices:,} chips", _LEFT + column * (_WIDE + _GAP), top)
        if quantity is QUANTITIES[-1]:
            body += _limits(kind, quantity, top, right - _GAP)
    return "\n".join([*body, "</svg>"]) + "\n"


def description(kind: str, width: int, rows: Sequence[int], chips: Sequence[int]) -> str:
    """The chart in words, for those who do not see it."""
    ends = []
    for count in (rows[0], rows[-1]):
        costs = estimate(kind, width, count, chips[-1]).costs.items()
        each = (f"{LABELS[name]} {1e3 * cost.waiting:.2f} ms and {cost.memory / 1e6:,.0f} MB" for name, cost in costs)
        ends.append(f"With {count:,} rows on each of {chips[-1]:,} chips: {', '.join(each)}.")
    return (
        f"Estimates for {chips[0]:,} to {chips[-1]:,} chips with {rows[0]:,} to {rows[-1]:,} rows of width {width} on "
        f"each. {' '.join(ends)} Both rings take the same memory, whatever the number of chips."
    )


def _scale(values: Sequence[float], start: float, stop: float) -> Callable[[float], float]:
    """Value -> pixel of a logarithmic axis on which ``values`` reach from ``start`` to ``stop``."""
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: start + (math.log(value) - low) / (high - low) * (stop - start)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _legend() -> Iterator[str]:
    x = _LEFT
    for name, label in LABELS.items():
        yield f'<polyline class="{name}" points="{x},20 {x + 36},20"/>'
        yield f'<circle class="{name}" cx="{x + 18}" cy="20" r="4"/>'
        yield _text(x + 44, 24.5, label)
        x += 66 + 8 * len(label)
    yield f'<circle class="ring auto" cx="{x + 8}" cy="20" r="4"/>' + _text(x + 20, 24.5, "filled: what auto becomes")


def _ticks(quantity: Quantity, top: float) -> Iterator[str]:
    at = _scale([*quantity.ticks], top + _HIGH, top)
    for value, label in quantity.ticks.items():
        yield _text(_LEFT - 8, at(value) + 4.5, label, anchor="end")


def _panel(
    quantity: Quantity, rows: Sequence[int], estimates: Sequence[Estimate], title: str, left: float, top: float
) -> Iterator[str]:
    at_x = _scale(rows, left + _INSET, left + _WIDE - _INSET)
    at_y = _scale([*quantity.ticks], top + _HIGH, top)
    yield _text(left + _WIDE / 2, top - 7, title, anchor="middle")
    for value in quantity.ticks:
        yield f'<path class="grid" d="M{left} {at_y(value):.1f}h{_WIDE}"/>'
    for count in rows[::3]:
        yield _text(at_x(count), top + _HIGH + 18, f"{count:,}", anchor="middle")
    for name in EXCHANGES:
        points = [
            (at_x(count), at_y(quantity.of(each.costs[name]))) for count, each in zip(rows, estimates, strict=True)
        ]
        yield f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
        for (x, y), each in zip(points, estimates, strict=True):
            yield f'<circle class="{name}{" auto" * (each.auto == name)}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _limits(kind: str, quantity: Quantity, top: float, right: float) -> Iterator[str]:
    """Dashed lines at the memory of a chip and at the share of it up to which ``auto`` may gather."""
    at, limit = _scale([*quantity.ticks], top + _HIGH, top), memory.usable(kind)
    assert limit  # ``estimate`` has checked it
    for value, label in ((limit, "memory of a chip"), (exchange.SHARE * limit, "up to here, auto may gather")):
        yield f'<path class="limit" d="M{_LEFT} {at(value):.1f}H{right}"/>'
        yield _text(_LEFT + 4, at(value) - 4, label)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default=KIND)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--chips", type=int, nargs="+", default=CHIPS)
    parser.add_argument("--plot", type=Path, help="an SVG file to draw, instead of a table")
    args = parser.parse_args(arguments)
    if args.plot:
        args.plot.write_text(chart(args.kind, args.width, args.rows, args.chips), "utf-8")
    else:
        print_table(args.kind, args.width, args.rows, args.chips)


if __name__ == "__main__":
    cli.run(main)
