"""Random streams: uniform, independent, and each with numbers of its own. Orders: each item once, all orders equally
likely. Mixtures: as often as the weights say, at any time."""

import collections
import concurrent.futures
import itertools
import pickle

import numpy as np
import pytest
from scipy.stats import chisquare

from naturel_jax.data.random.draws import AUGMENT, CAPTIONS, ORDER, Draws, generator
from naturel_jax.data.random.order import Mixture, Shuffled


def is_uniform(outcomes: np.ndarray, count: int) -> bool:
    """Whether the numbers from 0 to ``count - 1`` occur equally often (chi-squared)."""
    return chisquare(np.bincount(outcomes, minlength=count)).pvalue > 1e-4


def test_no_two_streams_have_a_number_in_common():
    streams = itertools.product((0, 1, 256), (ORDER, CAPTIONS, AUGMENT), (0, 1, 2**40), (0, 1))
    drawn = [generator(*stream).random(2000) for stream in streams]
    assert len(np.unique(drawn)) == 54 * 2000
    for one, other in itertools.combinations(drawn, 2):
        assert is_uniform((4 * one).astype(int) * 4 + (4 * other).astype(int), 16)


def test_the_next_source_begins_2_to_the_128_blocks_later():
    stream = generator(3, CAPTIONS, number=5, source=1)
    stream.bit_generator.advance(2**128)
    assert stream.random(9).tolist() == generator(3, CAPTIONS, number=5, source=2).random(9).tolist()


def test_draws_of_samples_are_uniform_and_independent():
    """Independent of each other, and of what is drawn beside and before them."""
    drawn_BU = (4 * Draws(3, AUGMENT, np.arange(10_000)).uniform(3)).astype(int)
    for column in drawn_BU.T:
        assert is_uniform(column, 4)
        assert is_uniform(4 * column[1:] + column[:-1], 16) and is_uniform(4 * column[256:] + column[:-256], 16)
    for one, other in itertools.combinations(drawn_BU.T, 2):
        assert is_uniform(4 * one + other, 16)


def test_draws_of_a_sample_do_not_depend_on_the_others():
    samples = np.array([900, 3, 2**62, 255, 256, 3])
    together = Draws(3, AUGMENT, samples).uniform(5)
    assert together.tolist() == [Draws(3, AUGMENT, samples[n : n + 1]).uniform(5)[0].tolist() for n in range(6)]
    assert len(np.unique(together)) == 5 * 5


@pytest.mark.parametrize("size", [1, 2, 12, 255, 256, 65_536, 100_000])
def test_every_epoch_has_each_item_once(size):
    for epoch in (0, 1, 10**6):
        items = Shuffled(size, 7, 0).at(np.arange(epoch * size, (epoch + 1) * size))
        assert np.array_equal(np.sort(items), np.arange(size))


def test_all_orders_are_equally_likely_whatever_the_epoch_before():
    items = Shuffled(3, 7, 0).at(np.arange(3 * 7200)).reshape(-1, 3)
    number = {order: n for n, order in enumerate(itertools.permutations(range(3)))}
    orders = np.array([number[tuple(order)] for order in items.tolist()])
    assert is_uniform(orders, 6) and is_uniform(6 * orders[1:] + orders[:-1], 36)
    other_source = Shuffled(3, 7, 1).at(np.arange(3 * 7200)).reshape(-1, 3)
    assert is_uniform(6 * orders + [number[tuple(order)] for order in other_source.tolist()], 36)


def test_order_does_not_depend_on_what_was_asked_for_before():
    """It does not depend on threads, either, and reading processes do not receive the order."""
    order, positions = Shuffled(1000, 7, 2), np.arange(6000)
    expected = Shuffled(1000, 7, 2).at(positions)
    mixed = np.random.default_rng(0).permutation(positions)
    assert np.array_equal(order.at(mixed), expected[mixed])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert np.array_equal(np.concatenate([*pool.map(order.at, positions.reshape(40, -1))]), expected)
    assert len(packed := pickle.dumps(order)) < 200 and np.array_equal(pickle.loads(packed).at(positions), expected)


@pytest.mark.parametrize("weights", [[1.0], [0.75, 0.25], [1, 1, 1], [0.3, 0.1], [5, 0.013, 1, 2.2], [1, 1e-4]])
def test_mixture_honours_weights_at_any_time(weights):
    """A source's share of any number of first positions is exact but for a turn or so, and none of its own positions is
    left out."""
    count = 300_000
    source_B, own_B = Mixture(weights).at(np.arange(count))
    for source, share in enumerate(np.array(weights) / sum(weights)):
        is_own = source_B == source
        assert np.array_equal(own_B[is_own], np.arange(is_own.sum()))
        rounded = 0.005 * min(weights) / sum(weights) * np.arange(1, count + 1) * (1 + share * len(weights))
        deviation = np.abs(np.cumsum(is_own) - share * np.arange(1, count + 1))
        assert (deviation <= (1 + share * len(weights)) / 2 + rounded).all()


def test_mixture_of_very_different_weights():
    """A period has about a million positions, and the lightest source one of them."""
    counts = collections.Counter(Mixture([1.0, 1e-9]).at(np.arange(1_000_001))[0].tolist())
    assert counts == {0: 1_000_000, 1: 1}
