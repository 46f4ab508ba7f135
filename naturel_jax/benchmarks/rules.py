"""The rules by which benchmarks score an item's cosines, vectorized over items. ``s[n, i, c]`` is the cosine of image
i and caption c of item n.
"""

from collections.abc import Sequence

import numpy as np

from naturel_jax.benchmarks.benchmark import Item, Outcomes

STRICT = ("text", "image", "group")  # Winoground's three scores
TWO_BY_TWO = (*STRICT, "matching")  # the outcomes of ``two_by_two``


def pair(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, (true, false): right when the true caption scores strictly higher; a tie is wrong."""
    s = np.stack(cosines)
    return {"right": (s[:, 0, 0] > s[:, 0, 1]).astype(float)}


def two_by_two(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Two images, two captions: Winoground's text, image and group (Thrush et al., arXiv 2204.03162), all strict, and
    ``matching``: the true assignment scores more in total than the swapped one (arXiv 2510.07632).
    """
    s = np.stack(cosines).astype(np.float64)
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    matching = s[:, 0, 0] + s[:, 1, 1] > s[:, 0, 1] + s[:, 1, 0]
    outcomes = zip(TWO_BY_TWO, (text, image, text & image, matching), strict=True)
    return {name: right.astype(float) for name, right in outcomes}


def first_of_many(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, the true caption and several others: right when the true one is the first argmax, so a tie counts
    as right; ``tie`` is reported.
    """
    right = [s[0].argmax() == 0 for s in cosines]
    tie = [s[0, 0] == s[0, 1:].max() for s in cosines]
    return {"right": np.array(right, float), "tie": np.array(tie, float)}
