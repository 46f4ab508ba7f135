"""Random streams: one for each seed, purpose, number (a step, a block of samples or an epoch) and source.

All are NumPy's Philox, a counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405): a bijection of a
256-bit counter, chosen by a 128-bit key. The key is (seed, purpose), and the counter begins at (0, 0, source, number),
lowest word first. So each stream has 2^128 blocks of four words before it would run into the next.

Shape letter: B samples.
"""

from typing import NamedTuple

import numpy as np

VERSION = 2  # a run that drew its batches from other streams is not continued (run_folder.check_streams)

ORDER, CAPTIONS, AUGMENT, PATCHES = range(4)  # purposes

_BLOCK = 256  # samples that are drawn together


def generator(seed: int, purpose: int, number: int, source: int = 0) -> np.random.Generator:
    """The stream of these. Its words are fixed; another version of NumPy may turn them into other numbers (NEP 19)."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, source, number]))


class Draws(NamedTuple):
    """Draws for single samples, numbered from 0 in the whole run: the same, whichever are requested together."""

    seed: int
    purpose: int
    sample_B: np.ndarray

    def uniform(self, count: int) -> np.ndarray:
        """``count`` numbers from 0 to less than 1 for each sample; float64 [B, count]. Another count gives others."""
        block_B, row_B = np.divmod(self.sample_B, _BLOCK)
        blocks, place_B = np.unique(block_B, return_inverse=True)
        drawn = [generator(self.seed, self.purpose, block).random((_BLOCK, count)) for block in blocks.tolist()]
        return np.array(drawn)[place_B, row_B]
