"""The chart of what exchanges cost: its points are the estimates, and it can be read without seeing it."""

import math
from xml.etree import ElementTree

import pytest

from naturel_jax.exchange import Sizes, costs
from perf import exchange

SVG = "{http://www.w3.org/2000/svg}"
ROWS, CHIPS = [64, 512, 4096], [8, 1024]


@pytest.fixture(scope="module")
def chart() -> ElementTree.Element:
    return ElementTree.fromstring(exchange.chart("TPU v5 lite", 768, ROWS, CHIPS))


def test_points_are_the_estimates(chart):
    """Values are found again from two ticks of each axis, which are powers of ten."""
    heights = {text.text: float(text.get("y")) for text in chart.iter(f"{SVG}text")}
    decade = (heights["10 µs"] - heights["1 s"]) / 5
    lines = [line for line in chart.iter(f"{SVG}polyline") if len(line.get("points").split()) == len(ROWS)]
    assert len(lines) == 2 * len(CHIPS) * 3, "waiting and memory, of three exchanges"
    for chips, of_panel in zip(CHIPS, (lines[:3], lines[3:6]), strict=True):
        for line in of_panel:
            for point, rows in zip(line.get("points").split(), ROWS, strict=True):
                y = float(point.split(",")[1]) + 4.5  # a label is centred on its tick
                expected = costs("TPU v5 lite", Sizes(chips, rows, rows, 768, 4096))[line.get("class")].waiting
                assert math.log10(expected) == pytest.approx((heights["1 s"] - y) / decade, abs=0.01)


def test_chart_is_described(chart):
    names = {element.get("id"): element.text for element in chart if element.get("id")}
    assert chart.get("role") == "img" and [*names] == chart.get("aria-labelledby").split()
    assert "TPU v5 lite" in names["t"] and "gather 4.47 ms and 405 MB" in names["d"]


def luminance(colour: str) -> float:
    """Of WCAG 2."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_lines_are_legible_on_light_and_dark_pages():
    style = exchange.chart("TPU v5 lite", 768, ROWS, CHIPS)
    for page in ("#ffffff", "#171c25"):
        assert f"{{ fill: {page} }}" in style
        for line in ("#0072b2", "#d55e00", "#009e73"):
            assert f"{{ stroke: {line} }}" in style
            dark, light = sorted(map(luminance, (page, line)))
            assert (light + 0.05) / (dark + 0.05) >= 3, "WCAG 2.1, 1.4.11: of what is not text"
