"""Draws the patches of each image that a training step keeps (``config.data.patch_dropout``; FLIP, arXiv 2212.00794).

Shape letters: R rows of a batch, P patches that are kept.
"""

from collections.abc import Iterable

import numpy as np

from naturel_jax.data.batches.planner import BLANK, PATCHES, Row
from naturel_jax.data.random.draws import generator

_LAST = 2**63 - 1  # a position beyond all sample numbers


def kept(patches: int, dropout: float) -> int:
    """How many of ``patches`` are left: as in OpenCLIP's ``PatchDropout`` (src/open_clip/transformer.py)."""
    return max(1, int(patches * (1 - dropout)))


def draw(seed: int, patches: int, count: int, rows: Iterable[Row], step: int) -> np.ndarray:
    """For each row, ``count`` numbers from 0 to ``patches - 1``, distinct, ascending; int32 [R, P].

    An image's depend on its sample number only, so not on devices and hosts. Blank images have no number of their own:
    all of a step keep the same patches.
    """
    positions = (_LAST - step if row == BLANK else row.sample for row in rows)
    chosen = [generator(seed, PATCHES, at).choice(patches, count, replace=False, shuffle=False) for at in positions]
    return np.sort(np.array(chosen, np.int32), axis=1)
