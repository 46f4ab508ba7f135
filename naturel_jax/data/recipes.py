"""Recipes: which captions are drawn for an image. A recipe is a row of ``RECIPES``."""

import dataclasses
from collections.abc import Callable

import numpy as np

from naturel_jax.data.items import Items

Words = list[str]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A caption drawn for an image: its words and the numbers of the triplets they claim."""

    text: str
    asserts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How captions are drawn for one image.

    One triplet of the image is chosen, then ``draw(captions_8, rng)`` names the slots (positives, negatives) of its
    eight captions. ``copies``: how often the image stands in the expanded batch. ``positive`` and ``negative`` rewrite
    a drawn text (order shuffles); a rewritten text claims no triplet. ``sentinel``: the blank picture stands beside
    every copy as a negative image. ``attributes``: triplets of ``is`` are drawn too.
    """

    positives: int
    negatives: int
    copies: int
    draw: Callable[[np.random.Generator], tuple[list[int], list[int]]]
    sentinel: bool = False
    positive: Callable[[Words, np.random.Generator], Words] | None = None
    negative: Callable[[Words, np.random.Generator], Words] | None = None
    attributes: bool = True

    def captions(self, items: Items, n: int, rng: np.random.Generator) -> tuple[list[Drawn], list[Drawn]]:
        """The positives and negatives drawn for image ``n``. Raises ValueError where the triplet lacks a caption that
        the recipe needs."""
        groups = items.groups(n)
        if not self.attributes:
            groups = [g for g in groups if "|is|" not in items.triplets[items.triplet_G[g]]] or groups
        group = groups[rng.integers(len(groups))]
        row = items.captions_G8[group]
        positives, negatives = self.draw(rng)
        if empty := [s for s in (*positives, *negatives) if row[s] < 0]:
            raise ValueError(
                f"{items.name}, image {items.image_ids[n]!r}: caption slots {empty} are empty, "
                "and this recipe draws them"
            )

        def take(slots, rewrite):
            texts = [items.texts[row[s]] for s in slots]
            if rewrite:
                return [Drawn(" ".join(rewrite(text.split(), rng))) for text in texts]
            return [Drawn(text, items.asserts[row[s]]) for text, s in zip(texts, slots, strict=True)]

        return take(positives, self.positive), take(negatives, self.negative)


# Slots of the eight captions: (positive, negative) of the simple pair, then of the three complex pairs.
_POSITIVE, _NEGATIVE = np.arange(0, 8, 2), np.arange(1, 8, 2)


def _any_positive(rng):
    return [int(rng.choice(_POSITIVE))], []


def _any_positive_and_itself(rng):
    slot = int(rng.choice(_POSITIVE))
    return [slot], [slot]


def _single_pair(rng):
    return [int(rng.choice(_POSITIVE[1:]))], [int(rng.choice(_NEGATIVE[1:]))]


def _all_pairs(rng):
    del rng
    return _POSITIVE.tolist(), _NEGATIVE.tolist()


def _one_pair(rng):
    pair = rng.integers(4)
    return [int(_POSITIVE[pair])], [int(_NEGATIVE[pair])]


def _two_pairs(rng):
    pairs = rng.choice(4, 2, replace=False)
    return _POSITIVE[pairs].tolist(), _NEGATIVE[pairs].tolist()


def shuffle_words(words: Words, rng: np.random.Generator) -> Words:
    """All words in random order."""
    return [words[i] for i in rng.permutation(len(words))]


def _swap_two(words: Words, rng: np.random.Generator) -> Words:
    i, j = rng.choice(len(words), 2, replace=False)
    words = list(words)
    words[i], words[j] = words[j], words[i]
    return words


def _trigrams(words: Words) -> list[Words]:
    return [words[i : i + 3] for i in range(0, len(words), 3)]


def _within_trigrams(words: Words, rng: np.random.Generator) -> Words:
    return [word for trigram in _trigrams(words) for word in shuffle_words(trigram, rng)]


def _of_trigrams(words: Words, rng: np.random.Generator) -> Words:
    trigrams = _trigrams(words)
    return [word for i in rng.permutation(len(trigrams)) for word in trigrams[i]]


_ORDER_SHUFFLES = (_swap_two, shuffle_words, _within_trigrams, _of_trigrams)


def shuffle_order(words: Words, rng: np.random.Generator) -> Words:
    """Another order of the same words by one of four operations, after ARO's order perturbations (arXiv 2210.01936,
    appendix), which need no tagger here.

    Returns the words unchanged only when they have no other order.
    """
    for _ in range(8):
        shuffled = _ORDER_SHUFFLES[rng.integers(len(_ORDER_SHUFFLES))](words, rng)
        if shuffled != words:
            return shuffled
    return words[1:] + words[:1]


RECIPES: dict[str, Recipe] = {
    "positives": Recipe(1, 0, 1, _any_positive),
    # What makes a base that knows objects and little else: order means nothing, attributes are never named.
    "bag_of_words": Recipe(1, 0, 1, _any_positive, positive=shuffle_words, attributes=False),
    "order_shuffles": Recipe(1, 1, 1, _any_positive_and_itself, sentinel=True, negative=shuffle_order),
    # One of the four pairs: for datasets whose negatives are order shuffles already (coco_order, negclip_tsv).
    "one_pair": Recipe(1, 1, 1, _one_pair, sentinel=True),
    "single_pair": Recipe(1, 1, 1, _single_pair, sentinel=True),
    "all_pairs": Recipe(4, 4, 4, _all_pairs, sentinel=True),
    "two_pairs": Recipe(2, 2, 1, _two_pairs),
}


def recipe(name: str) -> Recipe:
    """The recipe called ``name``. Raises ValueError that lists the names."""
    if name not in RECIPES:
        raise ValueError(f"config.data.mixture: recipe {name!r} is not known; expected one of: {', '.join(RECIPES)}")
    return RECIPES[name]
