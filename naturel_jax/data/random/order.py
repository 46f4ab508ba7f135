"""The training order: which item is at each position, for whole batches of positions.

Every source is shuffled in each epoch, and sources are mixed by weight. Shape letters: B positions, P positions of a
period.
"""

import functools
import threading
from collections.abc import Sequence

import numpy as np

from naturel_jax.data.random.draws import ORDER, generator

_FINEST = 100  # positions of the lightest source in a period of the mixture,
_LONGEST = 1_000_000  # unless the period gets longer than this
_LOCK = threading.Lock()


class Shuffled:
    """``size`` items of source number ``source``, in another order in each epoch.

    The orders of two epochs are kept in memory. With 100 million items, each takes 400 MB in every reading process, and
    seconds to draw at the beginning of an epoch.
    """

    def __init__(self, size: int, seed: int, source: int):
        self._arguments = size, seed, source
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_shuffle, *self._arguments))

    def __reduce__(self) -> tuple[type["Shuffled"], tuple[int, int, int]]:  # reading processes shuffle for themselves
        return Shuffled, self._arguments

    def at(self, position_B: np.ndarray) -> np.ndarray:
        """The items, from 0 to ``size - 1``, at these positions of the endless order; int64."""
        epoch_B, index_B = np.divmod(position_B, self._arguments[0])
        item_B = np.empty_like(index_B)
        for epoch in np.unique(epoch_B).tolist():
            with _LOCK:  # otherwise several threads would shuffle the same epoch
                order = self._order(epoch)
            item_B[epoch_B == epoch] = order[index_B[epoch_B == epoch]]
        return item_B


def _shuffle(size: int, seed: int, source: int, epoch: int) -> np.ndarray:
    order = np.arange(size, dtype=np.min_scalar_type(size))
    generator(seed, ORDER, epoch, source).shuffle(order)
    return order


class Mixture:
    """Endless sources taken in turns, in proportion to their weights.

    The turns repeat after a period, over which those of each source are spread evenly. The lightest source has 100 of
    them, so weights are exact to 0.5% of the lightest; if others weigh 10,000 times as much, it has fewer, but at least
    one.
    """

    def __init__(self, weights: Sequence[float]):
        scale = min(_FINEST / min(weights), _LONGEST / sum(weights))
        self._turns = np.maximum(1, np.rint(np.array(weights) * scale).astype(np.int64))  # per source
        source_P = np.repeat(np.arange(len(weights)), self._turns)
        turn_P = np.concatenate([np.arange(turns) for turns in self._turns])
        order = np.argsort((turn_P + 0.5) / self._turns[source_P], kind="stable")
        self._source_P, self._turn_P = source_P[order], turn_P[order]

    def at(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source at each position, and the position in that source's own order; int64."""
        period_B, place_B = np.divmod(position_B, len(self._source_P))
        source_B = self._source_P[place_B]
        return source_B, period_B * self._turns[source_B] + self._turn_P[place_B]
