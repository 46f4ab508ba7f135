"""The training order: which item is at each position, for whole batches of positions.

Every source is reshuffled each epoch, and sources are mixed by weight. The order is that of Grain's
``MapDataset.range(n).seed(seed).shuffle().repeat()`` and ``MapDataset.mix``, which compute one position at a time
(3 us each); a test compares them.

Shape letter: B positions.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDS = 4  # of the cipher: Grain's number
_SMALLEST_BLOCK = 16  # bits
_MASK_32 = 0xFFFFFFFF


class Shuffled(NamedTuple):
    """``size`` items, in another order in each epoch."""

    size: int
    seed: int

    def at(self, position_B: np.ndarray) -> np.ndarray:
        """The items, from 0 to ``size - 1``, at these positions of the endless order."""
        epoch_B, index_B = np.divmod(position_B, self.size)
        (seed,) = np.random.SeedSequence([self.seed, 1]).generate_state(1).tolist()  # Grain's seed of a first shuffle
        item_B = np.empty_like(index_B)
        for epoch in np.unique(epoch_B).tolist():
            of_epoch = epoch_B == epoch
            item_B[of_epoch] = _permuted(index_B[of_epoch], self.size - 1, (seed + epoch) % 2**32)
        return item_B


class Mixture:
    """Endless sources taken in turns, as often as their weights say."""

    def __init__(self, weights: Sequence[float]):
        scale = 100 / min(weights)
        shares = np.array([int(weight * scale) for weight in weights])
        self._left = np.cumsum(shares[::-1])[::-1]  # shares of each source and those after it

    def at(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source at each position, and the position in that source's own order."""
        left = [*self._left.tolist(), 0]
        period_B, k_B = np.divmod(position_B, left[0])  # the sources' turns repeat
        source_B, own_B = np.zeros_like(position_B), np.zeros_like(position_B)
        next_B = k_B + 1
        open_B = np.ones(len(position_B), bool)
        for source, (whole, rest) in enumerate(itertools.pairwise(left)):
            k_after_B, next_after_B = k_B * rest // whole, next_B * rest // whole
            count_B = next_B - next_after_B  # of this source's items up to the position
            taken_B = open_B & (k_B - k_after_B != count_B)
            source_B[taken_B] = source
            own_B[taken_B] = (period_B * (whole - rest) + count_B - 1)[taken_B]
            open_B &= ~taken_B
            k_B, next_B = k_after_B, next_after_B
        return source_B, own_B


def _permuted(index_B: np.ndarray, last: int, seed: int) -> np.ndarray:
    """A pseudorandom permutation of the numbers from 0 to ``last``: a Simon cipher (https://eprint.iacr.org/2013/404)
    of few rounds, repeated until the result is in range."""
    bits = math.ceil(math.log2(last)) if last else 0
    if (bits := bits + bits % 2) <= _SMALLEST_BLOCK:
        return _permutation(last, seed)[index_B]
    keys = _seed_sequence(seed, _ROUNDS)
    out_B, left_over, value = np.empty_like(index_B), np.arange(len(index_B)), index_B
    while len(left_over):  # at most three of four values are out of range
        value = _encrypted(value, bits // 2, keys)
        in_range = value <= last
        out_B[left_over[in_range]] = value[in_range]
        left_over, value = left_over[~in_range], value[~in_range]
    return out_B


@functools.lru_cache(maxsize=64)
def _permutation(last: int, seed: int) -> np.ndarray:
    """All of a permutation of few numbers, for which the cipher may be repeated thousands of times."""
    step = _encrypted(np.arange(1 << _SMALLEST_BLOCK), _SMALLEST_BLOCK // 2, _seed_sequence(seed, _ROUNDS))
    out = step[np.arange(last + 1) % len(step)]
    jump = np.where(np.arange(len(step)) <= last, np.arange(len(step)), step)
    while (out > last).any():
        out, jump = jump[out], jump[jump]  # twice as many steps each time
    return out


def _encrypted(value: np.ndarray, half: int, keys: Sequence[int]) -> np.ndarray:
    """Each number of ``2 * half`` bits, encrypted."""
    mask = (1 << half) - 1

    def mixed(x: np.ndarray) -> np.ndarray:
        one, two, eight = (((x << by) | (x >> (half - by))) & mask for by in (1, 2, 8))
        return (one & eight) ^ two

    high, low = (value >> half) & mask, value & mask
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        high = high ^ mixed(low) ^ (first & mask)
        low = low ^ mixed(high) ^ (second & mask)
    return (high << half) | low


def _seed_sequence(seed: int, count: int) -> list[int]:
    """``count`` numbers of 32 bits, at most 6, from C++'s ``std::seed_seq{seed}``."""
    out = [0x8B8B8B8B] * count
    shift = (count - 1) // 2  # p of the standard; q is one more

    def add(k: int, by: int) -> None:
        out[k % count] = (out[k % count] + by) & _MASK_32

    def scrambled(x: int, factor: int) -> int:
        return factor * (x ^ (x >> 27)) & _MASK_32

    for k in range(count):
        first = scrambled(out[k] ^ out[(k + shift) % count] ^ out[k - 1], 1664525)
        second = (first + (1 if k == 0 else k + seed if k == 1 else k)) & _MASK_32
        add(k + shift, first)
        add(k + shift + 1, second)
        out[k] = second
    for k in range(count):
        third = scrambled((out[k] + out[(k + shift) % count] + out[k - 1]) & _MASK_32, 1566083941)
        fourth = (third - k) & _MASK_32
        out[(k + shift) % count] ^= third
        out[(k + shift + 1) % count] ^= fourth
        out[k] = fourth
    return out
