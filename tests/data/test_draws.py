"""Draws for a whole batch against NumPy's generators, and orders against Grain's data sets."""

import grain
import numpy as np
import pytest

from naturel_jax.data.random.draws import Draws, generator
from naturel_jax.data.random.order import Mixture, Shuffled

POSITIONS = [*range(60), 2**40, 2**63]


def each(function) -> list:
    """``function`` of NumPy's generator of each position."""
    return [function(generator(300, 1, position), n) for n, position in enumerate(POSITIONS)]


@pytest.fixture
def draws():
    return Draws(300, 1, np.array(POSITIONS, np.uint64))


@pytest.mark.parametrize("largest", [3, 1000, 3 * 2**30, 2**32])
def test_numbers_are_those_of_numpys_generators(largest, draws):
    """Of the largest but one, a quarter is drawn again."""
    stop = np.random.default_rng(0).integers(1, largest, (40, len(POSITIONS)), endpoint=True)
    stop[:, :5] = 1  # nothing is drawn
    ours = np.array([draws.integers(row) for row in stop])
    assert ours.T.tolist() == each(lambda rng, n: [int(rng.integers(k)) for k in stop[:, n]])


@pytest.mark.parametrize(("count", "available"), [(2, 2), (2, 4), (5, 30), (3, 10_000), (300, 10_001)])
def test_choices_are_those_of_numpys_generators(count, available, draws):
    """NumPy's method for many of 10,001 or more is another."""
    available_B = np.maximum(count, available - np.arange(len(POSITIONS)))
    ours = [draws.integers(available_B).tolist(), draws.choose(available_B, count).tolist()]
    theirs = each(lambda rng, n: (int(rng.integers(k := available_B[n])), rng.choice(k, count, replace=False).tolist()))
    assert list(zip(*ours, strict=True)) == theirs


def test_fractions_are_those_of_numpys_generators(draws):
    """Of some rows, in turns with halves of words."""
    rows = np.array([50, 3, 61])
    ours = [draws.random(rows), draws.integers(np.full(len(POSITIONS), 5))[rows], draws.random(rows)]
    theirs = each(lambda rng, n: [rng.random(), int(rng.integers(5)), rng.random()])
    assert np.transpose(ours).tolist() == [theirs[row] for row in rows]


def test_numpys_generator_takes_turns_with_draws(draws):
    """Also after an odd number of halves of words, and draws of whole words."""
    rows = np.array([3, 0, 50])
    calls = (
        lambda g: g.permutation(11).tolist(),
        lambda g: g.random(),
        lambda g: g.choice(9, 2, replace=False).tolist(),
    )

    def ours():
        for call in calls:
            yield draws.integers(np.full(len(POSITIONS), 5))[rows].tolist()
            yield [call(draws.generator(row)) for row in rows]
        part = draws.at(rows)
        yield part.integers(np.array([7, 1, 7])).tolist()
        yield part.integers(np.array([7, 7, 7])).tolist()

    def theirs(rng, n):
        for call in calls:
            yield int(rng.integers(5))
            yield call(rng)
        yield int(rng.integers(1 if n == 0 else 7))
        yield int(rng.integers(7))

    expected = each(lambda rng, n: list(theirs(rng, n)))
    assert list(ours()) == [list(column) for column in zip(*(expected[row] for row in rows), strict=True)]


@pytest.mark.parametrize("size", [1, 2, 12, 5000, 65_536, 65_537, 65_538, 10**7])
def test_order_is_that_of_grain(size):
    reference = grain.MapDataset.range(size).seed(2**32 - 2).shuffle().repeat()
    positions = np.array([*range(40), *range(size - 1, size + 40), 3 * size - 1, 3 * size, 10**6 * size + 7])
    assert Shuffled(size, 2**32 - 2).at(positions).tolist() == [reference[int(n)] for n in positions]


@pytest.mark.parametrize("weights", [[1.0], [0.75, 0.25], [1, 1, 1], [5, 0.013, 1, 2.2]])
def test_mixture_is_that_of_grain(weights):
    sources = [grain.MapDataset.range(10**9).map(lambda k, s=s: (s, k)) for s in range(len(weights))]
    reference = grain.MapDataset.mix(sources, weights)
    positions = np.array([*range(1500), *range(10**6, 10**6 + 200)])
    columns = Mixture(weights).at(positions)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == [reference[int(n)] for n in positions]
