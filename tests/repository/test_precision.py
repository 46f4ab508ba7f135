"""The measurement of evaluation in bfloat16: what it counts, on matrices that are known."""

import numpy as np
import pytest

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from proofs import precision

ITEMS = [Item(str(n), (Image(f"{n}a", bytes), Image(f"{n}b", bytes)), (f"a cat {n}", f"a dog {n}")) for n in range(4)]
METRICS = (Metric("winoground/text", "text"), Metric("winoground/image", "image"))
BENCHMARK = Benchmark("winoground", tuple(ITEMS), rules.two_by_two, METRICS)


def test_drift_counts_orders_decisions_and_ties():
    """One margin of the 16 (four an item) changes its sign, and with it one item's text outcome; another becomes a tie
    that no outcome depends on."""
    exact = [np.array([[0.5, 0.2], [0.1, 0.4]], np.float32) for _ in ITEMS]
    exact[3] = np.array([[0.5, 0.2], [0.45, 0.4]], np.float32)  # wrong by text
    rounded = [matrix.copy() for matrix in exact]
    rounded[0][0, 0], rounded[3][1, 0] = 0.15, 0.4
    found = precision.drift(BENCHMARK, ITEMS, exact, rounded)
    assert (found.items, found.ties) == (4, (0, 1))
    assert found.cosine == pytest.approx(0.35, abs=1e-6) and found.margin == pytest.approx(0.35, abs=1e-6)
    assert found.orders == pytest.approx(2 / 16) and found.decisions == pytest.approx(1 / 4)
    assert found.score == "winoground/text" and found.moves == pytest.approx(1 / 4)
    assert found.half_width == pytest.approx(0.375, abs=0.13), "of three of four"
    assert len(found.cells) + 2 == len(precision.HEADINGS)


def test_captions_that_tie_by_design_are_not_counted():
    item = Item("0", (Image("i", bytes),), ("a cat", "A  CAT", "a dog"))
    np.testing.assert_allclose(precision.margins([item], [np.array([[0.5, 0.5, 0.2]])]), [0.3, 0.3])


@pytest.mark.slow
def test_command_prints_a_row_for_each_benchmark(capsys):
    precision.main(["--random", "clip-b32", "--depth", "1", "--items", "4"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == list(precision.TWINS) and rows[0][0] == "| clip-b32 (random, depth 1)"
    assert all(0 < float(row[3]) < 0.1 for row in rows), "bfloat16 has 8 bits"
    assert all(float(row[4]) > 0 for row in rows), "captions differ"
