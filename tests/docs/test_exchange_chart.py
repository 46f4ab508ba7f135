"""The chart of what exchanges cost: its points are the estimates, and it is legible on any page."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.figure import Figure

from naturel_jax.models.presets import published
from naturel_jax.training import memory
from naturel_jax.training.exchange import Sizes, best, costs
from perf import exchange, fits
from tests.helpers.worlds import ROOT

SIZES = ("TPU v5 lite", 768, [64, 512, 4096], [8, 1024])
FIELDS = ("waiting", "memory")


def lines(figure: Figure) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """(field, chips) -> label -> the values of a line."""
    panels = [(field, chips) for field in FIELDS for chips in SIZES[3]]
    of_panel = [
        {line.get_label(): line.get_ydata() for line in axis.lines if [*line.get_xdata()] == SIZES[2]}
        for axis in figure.axes
    ]
    return dict(zip(panels, of_panel, strict=True))


@pytest.fixture(scope="module")
def figure() -> Figure:
    return exchange.chart(*SIZES)


def test_lines_are_the_estimates(figure):
    for (field, chips), drawn in lines(figure).items():
        known = [costs("TPU v5 lite", Sizes(chips, rows, rows, 768, 4096)) for rows in SIZES[2]]
        expected = [[getattr(each[name], field) for each in known] for name in ("ring", "two_way_ring", "gather")]
        assert [*drawn] == ["ring", "two-way ring", "gather"]
        np.testing.assert_array_equal([*drawn.values()], expected)


def test_points_are_what_auto_becomes(figure):
    """As the last column of the table in docs/losses.md: "gather" with 64 rows on a chip, then "two_way_ring"."""
    for axis in figure.axes:
        marked = {line.get_label(): line.get_markevery() for line in axis.lines if line.get_marker() == "o"}
        assert marked == {"ring": [], "two-way ring": [1, 2], "gather": [0]}


def test_image_has_a_title_and_the_table_as_its_description(figure):
    image = exchange.svg(figure, "of a v5e", exchange.table(*SIZES))
    assert image == exchange.svg(exchange.chart(*SIZES), "of a v5e", exchange.table(*SIZES)), "always the same bytes"
    root = ElementTree.fromstring(image)
    assert root.find("{*}title").text == "of a v5e"
    description = root.find(".//{*}description").text
    assert description.splitlines()[-2].split()[:5] == ["4,096", "8", "0.28", "0.14", "1.96"]
    assert {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")} >= {"1,024 chips", "gather", "64"}


def test_lines_are_legible_on_light_and_dark_pages(figure):
    """On a background of its own."""
    assert colors.to_hex(figure.get_facecolor(), keep_alpha=True) == "#ffffffff"
    for style in exchange.STYLES.values():
        assert 1.05 / (luminance(style["color"]) + 0.05) >= 3, "WCAG 2.1, 1.4.11: of what is not text"


def luminance(colour: str) -> float:
    """The contrast ratio of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def sizes(step: fits.Step, images: int, captions: int) -> tuple[str, Sizes]:
    """The kind of device of a step, and the sizes of its loss."""
    kinds = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"}
    width = published(step.init).embed_dim if step.init else {"siglip_tp": 768, "negclip_ap": 512}[step.config]
    generation, is_tpu, shape = step.topology.partition(":")
    numbers = [int(size) for size in (shape.split("x") if is_tpu else generation.split("x")[1:])]
    hosts = 1 if is_tpu else math.prod(numbers[:-1])
    devices = math.prod(numbers) * (2 if generation == "tpu7x" else 1)
    return kinds.get(generation, "NVIDIA H100 80GB HBM3"), Sizes(devices, images, captions, width, 4096, hosts)


def test_documented_exchanges_are_those_that_auto_becomes():
    """What docs/plan.md says above its table of what fits, by the arithmetic of ``auto`` on the sizes of its rows."""
    text = (ROOT / "docs/plan.md").read_text()
    table = text[text.index("| step | devices |") :].split("\n\n")[0]
    _, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    for row, step in zip(rows, fits.STEPS["tpu"] + fits.STEPS["gpu"], strict=True):
        images, captions = map(int, re.match(r"(\d+) \+ (\d+) of", row[2]).groups())
        kind, of = sizes(step, images, captions)
        chosen = best(costs(kind, of), memory.usable(kind))
        assert chosen == ("ring" if step.topology == "h100x8" else "gather"), row
        assert row[4] == chosen, row
