"""Draws the patches of each image that a training step keeps (``config.data.patch_dropout``; FLIP, arXiv 2212.00794).

Shape letters: R rows of a batch, P patches that are kept.
"""

from collections.abc import Sequence

import numpy as np

from naturel_jax.data.batches.planner import BLANK, ImageRow
from naturel_jax.data.random.draws import PATCHES, Draws

_LAST = 2**63 - 1  # beyond all sample numbers


def kept(patches: int, dropout: float) -> int:
    """How many of ``patches`` are left: as in OpenCLIP's ``PatchDropout`` (src/open_clip/transformer.py)."""
    return max(1, int(patches * (1 - dropout)))


def draw(seed: int, patches: int, count: int, rows: Sequence[ImageRow], step: int) -> np.ndarray:
    """For each row, ``count`` distinct numbers from 0 to ``patches - 1``, ascending; int32 [R, P].

    An image's patches depend only on its sample number, not on devices or hosts. Blank images have no number of their
    own: all those of a step keep the same patches.
    """
    sample_R = np.array([_LAST - step if row == BLANK else row.sample for row in rows])
    rank = np.argsort(Draws(seed, PATCHES, sample_R).uniform(patches))
    return np.sort(rank[:, :count].astype(np.int32))
