"""The rules by which benchmarks score an item's cosines, vectorized over items. ``s[n, i, c]`` is the cosine of image
i and caption c of item n.

Shape letters: N items.
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


def wordings(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, true captions that mean the same, and last a false one, with ``caption_rows``: the two scores of
    SugarCrepe++ (Dumpala et al., arXiv 2406.11171), for any number of true captions. All comparisons are strict.

    ``image_to_text``: the image prefers every true caption to the false one. ``text_only``: any two true captions are
    closer to each other than either is to the false one.
    """
    image_N, text_N = np.zeros(len(cosines)), np.zeros(len(cosines))
    captions_N = np.array([s.shape[1] for s in cosines])
    for captions in np.unique(captions_N):
        rows = np.flatnonzero(captions_N == captions)
        s = np.stack([cosines[n] for n in rows.tolist()])
        image_N[rows] = (s[:, 0, :-1] > s[:, 0, -1:]).all(axis=1)
        i, j = np.triu_indices(captions - 1, 1)
        false = s[:, 1:-1, -1]
        text_N[rows] = (s[:, 1 + i, j] > np.maximum(false[:, i], false[:, j])).all(axis=1)
    return {"image_to_text": image_N, "text_only": text_N}
