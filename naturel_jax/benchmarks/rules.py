"""The rules by which benchmarks score an item's cosines, vectorized over items. ``s[n, i, c]`` is the cosine of image
i and caption c of item n. ``tie`` is 1 for an item in which a right and a wrong answer have the same cosine: reports
count them.

Shape letters: N items.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from naturel_jax.benchmarks.benchmark import Chance, Item, Metric, Outcomes, by_value

T = TypeVar("T")

STRICT = ("text", "image", "group")  # Winoground's three scores
TWO_BY_TWO = (*STRICT, "matching")  # the scores of ``two_by_two``
WITHOUT_IMAGES = "text_only"  # the outcome that compares captions with each other only


def pair(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image and a true and a false caption, or one caption and such images: right when the true one scores strictly
    higher; a tie is wrong.
    """
    true, false = np.stack(cosines).reshape(len(cosines), 2).T
    right, tie = true > false, true == false
    return {"right": right.astype(float), "tie": tie.astype(float)}


PAIR: Chance = {"right": 1 / 2}


def two_by_two(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Two images, two captions: Winoground's text, image and group (Thrush et al., arXiv 2204.03162), all strict, and
    ``matching``: the true assignment scores more in total than the swapped one (arXiv 2510.07632).
    """
    s = np.stack(cosines).astype(np.float64)
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    matching = s[:, 0, 0] + s[:, 1, 1] > s[:, 0, 1] + s[:, 1, 0]
    tie = (s[:, (0, 1), (0, 1), None] == s[:, None, (0, 1), (1, 0)]).any(axis=(1, 2))
    outcomes = zip((*TWO_BY_TWO, "tie"), (text, image, text & image, matching, tie), strict=True)
    return {name: right.astype(float) for name, right in outcomes}


GROUPS: Chance = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6, "matching": 1 / 2}


def group_metrics(
    name: str, items: Sequence[Item], tags: Iterable[str], by_tag: Sequence[str] = STRICT
) -> list[Metric]:
    """The scores of ``two_by_two``, and those of ``by_tag`` for every value of each tag."""
    metrics = [Metric(f"{name}/{score}", score) for score in TWO_BY_TWO]
    for tag in tags:
        for score in by_tag:
            metrics += by_value(f"{name}/{score}", score, tag, items)
    return metrics


def first_of_many(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, the true caption and several others; or one caption, its image and several others. Right when the true
    one is the first argmax, in the order in which the benchmark lists them: the true one at the index in the tag
    ``answer``, or first, where a tie counts as right.
    """
    before = [int(str(item.tags.get("answer", 0))) for item in items]
    tie = np.array([s.flat[0] == s.ravel()[1:].max() for s in cosines], float)
    right = np.array([s.argmax() == 0 for s in cosines], float)  # of equals, the first
    for n in np.flatnonzero((tie == 1) & (right == 1)).tolist():
        right[n] = (cosines[n].flat[0] > cosines[n].ravel()[1 : before[n] + 1]).all()
    return {"right": right, "tie": tie}


FIRST: Chance = {"right": lambda item: 1 / (len(item.images) * len(item.captions))}


def true_first(options: Sequence[T], answer: int) -> tuple[T, ...]:
    """``options`` in the order that ``first_of_many`` expects: the one at index ``answer``, then the others."""
    return (options[answer], *options[:answer], *options[answer + 1 :])


def wordings(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, true captions that mean the same, and last a false one, with ``caption_rows``: the two scores of
    SugarCrepe++ (Dumpala et al., arXiv 2406.11171), for any number of true captions. All comparisons are strict.

    ``image_to_text``: the image prefers every true caption to the false one. ``text_only``: any two true captions are
    closer to each other than either is to the false one.
    """
    image_N, text_N, tie_N = (np.zeros(len(cosines)) for _ in range(3))
    captions_N = np.array([s.shape[1] for s in cosines])
    for captions in np.unique(captions_N):
        rows = np.flatnonzero(captions_N == captions)
        s = np.stack([cosines[n] for n in rows.tolist()])
        image_N[rows] = (s[:, 0, :-1] > s[:, 0, -1:]).all(axis=1)
        i, j = np.triu_indices(captions - 1, 1)
        false = s[:, 1:-1, -1]
        nearest = np.maximum(false[:, i], false[:, j])
        text_N[rows] = (s[:, 1 + i, j] > nearest).all(axis=1)
        tie_N[rows] = (s[:, 0, :-1] == s[:, 0, -1:]).any(axis=1) | (s[:, 1 + i, j] == nearest).any(axis=1)
    return {"image_to_text": image_N, WITHOUT_IMAGES: text_N, "tie": tie_N}


def _text_only(true: int) -> float:
    """Chance that the cosines of any two of ``true`` captions are above those of either to the false one: n! times the
    integral of the product of (1 - f_k) ** (k - 1) over 0 < f_1 < ... < f_n < 1, the cosines to the false one as ranks.
    """
    return math.prod(k / sum(range(k, true + 1)) for k in range(1, true + 1))


WORDINGS: Chance = {
    "image_to_text": lambda item: 1 / len(item.captions),
    WITHOUT_IMAGES: lambda item: _text_only(len(item.captions) - 1),
}
