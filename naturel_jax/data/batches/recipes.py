"""Recipes: which captions are sampled for an image. A recipe is a row of ``RECIPES``, of this package or of
another (``plugins.py``).

Shape letters: B images or groups of a batch, K captions sampled per image, G caption groups, C captions of one
polarity, T texts.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from itertools import compress
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from naturel_jax.config.plugins import Registry
from naturel_jax.data.items import tags
from naturel_jax.data.items.items import Captions, Items
from naturel_jax.data.items.ragged import Ragged, spans
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Kind

_Number = TypeVar("_Number", int, float)

Words = list[str]
Rewrite = Callable[[Words, np.random.Generator], Words]
Count = int | Literal["all"]

_QUOTED = 4  # captions of a group that a message quotes
_GROUPS = 1 << 18  # groups that are checked at a time


class Sampled(NamedTuple):
    """Captions sampled for each image of a batch: indices of the dataset's texts, and, if they were rewritten, the new
    string for each, in order."""

    texts: Ragged
    rewritten: list[str] | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is sampled for one image: one of its caption groups, then captions of that group.

    Each caption is one of its paraphrases; with ``paired``, the same one in both captions of a pair. A rewritten one
    asserts nothing. No negative is made from a caption whose words have no other order. With ``swaps``, a negative is a
    positive with two of its nouns or adjectives swapped, or, if that is not possible, ``rewrite_to_negative`` of it;
    without the latter, it must be possible. With ``joins``, two images are one, with the captions of ``sample_joined``.
    """

    positives: Count  # how many, without replacement; "all": at least one, in the order of their pairs
    negatives: Count = 0
    paired: bool = False  # the negatives are those of the sampled positives' pairs
    kind: Kind | None = None  # only captions of this kind; None: simple and complex
    rewrite: Rewrite | None = None  # applied to the positives
    rewrite_to_negative: Rewrite | None = None  # makes a negative from each positive
    swaps: bool = False  # makes a negative from each positive, by its tags (tags.py)
    joins: bool = False  # two images are joined to one, and so are their captions (CLIC)
    attributes: bool = True  # False: groups that name an attribute are skipped if the image has others
    repeat_image: bool = False  # the expanded batch holds the image once per positive, not once for all
    sentinel: bool = False  # a blank image is a negative of every caption, once per copy of an image
    name: str = ""  # its key in RECIPES, for messages

    def __post_init__(self) -> None:
        if self.paired and self.positives != self.negatives:
            raise ValueError(f"paired captions: {self.positives} positives and {self.negatives} negatives differ")
        if (self.rewrite_to_negative or self.swaps) and self.negatives:
            raise ValueError(f"negatives is {self.negatives}: they are made from the positives")
        others = self.negatives or self.rewrite or self.rewrite_to_negative or self.swaps
        if self.joins and (self.positives == "all" or others):
            raise ValueError("joined captions: expected a number of positives, and nothing else that makes captions")

    @property
    def makes_captions(self) -> bool:
        """Whether it samples captions that are not in the dataset."""
        return bool(self.rewrite or self.rewrite_to_negative or self.swaps or self.joins)

    @property
    def most(self) -> tuple[float, float]:
        """The most positives and negatives that it samples for an image; infinite where it samples all."""
        return self._with_made(*(math.inf if count == "all" else count for count in (self.positives, self.negatives)))

    def _with_made(self, positives: _Number, negatives: _Number) -> tuple[_Number, _Number]:
        """How many captions an image has with those that are made from the sampled ones."""
        if self.joins:
            return positives + 1, 1
        return positives, positives if self.rewrite_to_negative or self.swaps else negatives

    def check(self, items: Items) -> tuple[int, int]:
        """The maximum numbers of positives and negatives sampled for an image of ``items``.

        Raises UserError naming the first caption group that lacks the captions the recipe needs.
        """
        if self.swaps or (self.joins and not items.facts):  # facts name the words that joined captions exchange
            self._check_tags(items)
        max_positives = max_negatives = 0
        for first in range(0, len(items.attribute_G), _GROUPS):
            stop = min(first + _GROUPS, len(items.attribute_G))
            used = items.trained_on(first, stop)
            positives, negatives = items.counts(first, stop, self.kind, self.paired)
            short = used & ((positives < _minimum(self.positives)) | (negatives < _minimum(self.negatives)))
            if short.any():
                raise UserError(self._misfit_message(items, first + int(short.argmax())))
            max_positives = max(max_positives, _maximum(self.positives, positives[used]))
            max_negatives = max(max_negatives, _maximum(self.negatives, negatives[used]))
        return self._with_made(max_positives, max_negatives)

    def _check_tags(self, items: Items) -> None:
        needs = f"recipe {self.name!r} (config.data.mixture) needs"
        if items.tags is None:
            raise UserError(
                f"{needs} tags of the captions, which {items.name} does not have; for a table of records, run "
                f"python -m naturel_jax.data.check {items.name} --tags en_core_web_sm"
            )
        if self.rewrite_to_negative or self.joins:
            return
        fixed = []  # row of each caption that has no swap
        for start in range(0, len(items.attribute_G), _GROUPS):
            stop = min(start + _GROUPS, len(items.attribute_G))
            group, _ = items.positives.block(start, stop)
            first = items.positives.starts_G1[start]
            text = items.positives.text_C[first : first + len(group)]
            fixed.append(first + np.flatnonzero(~items.tags.swappable_T[text] & items.trained_on(start, stop)[group]))
        rows = np.concatenate(fixed)
        if len(rows):
            image = items.image_of(int(np.searchsorted(items.positives.starts_G1, rows[0], side="right")) - 1)
            raise UserError(
                f"{needs} two different nouns or adjectives in every true caption, which {len(rows):,} of {items.name} "
                f"do not have; the first: {items.texts[items.positives.text_C[rows[0]]][:60]!r} of image {image!r}. "
                "Leave them out, or use 'swaps_or_shuffles', which reorders their words"
            )

    def sample(self, items: Items, image_B: np.ndarray, rng: np.random.Generator) -> tuple[Sampled, Sampled]:
        """The positives and negatives of these images; ``check`` must have accepted ``items``."""
        group_B, sides = self._groups(items, image_B, rng), (items.positives, items.negatives)
        if self.paired:
            positives, negatives = items.pairs(group_B, self.kind)
            columns = _choose(positives, self.positives, rng)
            positives, negatives = _chosen(positives, columns), _chosen(negatives, columns)
            wordings = (side.wordings(rows.values) for side, rows in zip(sides, (positives, negatives), strict=True))
            paraphrases = [rng.integers(np.minimum(*wordings))] * 2
        else:
            positives, negatives = (side.rows_of(group_B, self.kind) for side in sides)
            positives = _chosen(positives, _choose(positives, self.positives, rng))
            negatives = _chosen(negatives, _choose(negatives, self.negatives, rng))
            paraphrases = [
                rng.integers(side.wordings(rows.values))
                for side, rows in zip(sides, (positives, negatives), strict=True)
            ]
        true = Ragged(positives.starts, items.positives.texts(positives.values, paraphrases[0]))
        rewritten = _rewritten(items, true, self.rewrite, rng) if self.rewrite else None
        if self.rewrite_to_negative or self.swaps:
            false = self._made_from(items, true, rng)
            own = set(zip(true.rows.tolist(), rewritten or items.texts_at(true.values), strict=True))
            kept = [caption not in own for caption in zip(true.rows.tolist(), false, strict=True)]  # "dog"
            return Sampled(true, rewritten), Sampled(true.keep(np.array(kept, bool)), list(compress(false, kept)))
        false_texts = items.negatives.texts(negatives.values, paraphrases[1])
        return Sampled(true, rewritten), Sampled(Ragged(negatives.starts, false_texts))

    def sample_joined(
        self, items: Items, image_B: np.ndarray, other_B: np.ndarray, rng: np.random.Generator
    ) -> tuple[Sampled, Sampled]:
        """The captions of images that are joined two by two, as in CLIC (arXiv 2505.24424): the first captions of both
        in either order; further ones in a random order; and as a negative, the first ones in a random order, with a
        word of one exchanged for a word of the other (``tags.exchange``), unless that is one of the positives."""
        assert self.joins and self.positives != "all"
        (true, _), _ = self.sample(items, np.stack([image_B, other_B], 1).ravel(), rng)
        text_B2K = true.values.reshape(len(image_B), 2, self.positives)
        flip_BK = rng.integers(2, size=(len(image_B), self.positives)).astype(bool)
        positives, negatives = list[str](), list[str]()
        for text_2K, flip_K in zip(text_B2K, flip_BK.tolist(), strict=True):
            first, *further = zip(*map(items.texts_at, text_2K), strict=True)
            exchanged = tags.exchange(first, [_places(items, text) for text in text_2K[:, 0].tolist()], rng)
            own = [_sentences(first), _sentences(first[::-1])]
            own += [_sentences(pair[::-1] if flip else pair) for pair, flip in zip(further, flip_K[1:], strict=True)]
            false = _sentences(exchanged[::-1] if flip_K[0] else exchanged)
            positives += own
            negatives.append("" if false in own else false)
        stands_for_B, count_B = text_B2K[:, 0, 0], np.full(len(image_B), self.positives + 1)
        has_false_B = np.array(list(map(bool, negatives)), bool)
        made = Sampled(Ragged.from_lengths(count_B, np.repeat(stands_for_B, count_B)), positives)
        kept = Ragged.from_lengths(has_false_B, stands_for_B[has_false_B])
        return made, Sampled(kept, list(filter(None, negatives)))

    def _made_from(self, items: Items, texts: Ragged, rng: np.random.Generator) -> list[str]:
        """A negative from each positive."""
        if not self.swaps:
            assert self.rewrite_to_negative  # otherwise there is nothing to make
            return _rewritten(items, texts, self.rewrite_to_negative, rng)
        assert items.tags is not None  # check says so
        places, made = items.tags.places.take(texts.values), []
        for n, text in enumerate(items.texts_at(texts.values)):
            swapped = tags.swap(text, map(tuple, places[n].reshape(-1, 3).tolist()), rng)
            if swapped is None and self.rewrite_to_negative:
                swapped = " ".join(self.rewrite_to_negative(text.split(), rng))
            made.append(swapped or text)
        return made

    def _groups(self, items: Items, image_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One caption group of each image, drawn at random."""
        groups = spans(items.groups_N1[image_B], items.groups_N1[image_B + 1])
        if not self.attributes:
            other = ~items.attribute_G[groups.values]
            has_others_B = np.bincount(groups.rows[other], minlength=len(groups)) > 0
            groups = groups.keep(other | ~has_others_B[groups.rows])
        return groups.choose(rng.integers(groups.lengths)[:, None]).values

    def _misfit_message(self, items: Items, group: int) -> str:
        kind = f" of kind {self.kind!r}" if self.kind else ""
        needs = f"{self.positives} positive(s) and {self.negatives} negative(s){kind}{' in pairs' * self.paired}"
        positives, negatives = _quoted(items, items.positives, group), _quoted(items, items.negatives, group)
        return (
            f"recipe {self.name!r} (config.data.mixture) does not fit {items.name}, image {items.image_of(group)!r}: "
            f"it needs {needs} in every caption group, but one has positives {positives}, negatives {negatives}. "
            "Use another recipe or another dataset"
        )


def _quoted(items: Items, captions: Captions, group: int) -> str:
    """The captions of ``group`` for a message."""
    rows = captions.rows(group)
    texts = []
    for row in rows[:_QUOTED]:
        kind = "simple" if captions.simple_C[row] else "complex"
        texts.append(f"{items.texts[captions.text_C[row]][:60]!r} ({kind}, pair {captions.pair_C[row]})")
    return f"[{', '.join(texts)}{', ...' if len(rows) > _QUOTED else ''}]"


def _minimum(count: Count) -> int:
    return 1 if count == "all" else count


def _maximum(count: Count, available: np.ndarray) -> int:
    return int(available.max(initial=0)) if count == "all" else count


def _choose(available: Ragged, count: Count, rng: np.random.Generator) -> np.ndarray | None:
    """``count`` different columns of each row, in random order, int64 [B, count]; None for all."""
    if count == "all":
        return None
    column_BK = np.empty((len(available), count), np.int64)
    for k in range(count):
        number_B = rng.integers(available.lengths - k)  # among the columns that are not chosen yet
        for earlier_B in np.sort(column_BK[:, :k]).T:
            number_B += number_B >= earlier_B
        column_BK[:, k] = number_B
    return column_BK


def _chosen(available: Ragged, columns: np.ndarray | None) -> Ragged:
    return available if columns is None else available.choose(columns)


def _rewritten(items: Items, texts: Ragged, rewrite: Rewrite, rng: np.random.Generator) -> list[str]:
    return [" ".join(rewrite(text.split(), rng)) for text in items.texts_at(texts.values)]


def _places(items: Items, text: int) -> list[tags.Place]:
    """The nouns and adjectives of a text."""
    if items.tags is None:
        facts = items.asserts[text].tolist()
        return tags.named(items.texts[text], tuple(items.facts[fact] for fact in facts))
    return list(map(tuple, items.tags.places[text].reshape(-1, 3).tolist()))


def _sentences(captions: Iterable[str]) -> str:
    """The captions one after the other, each with a full stop."""
    return " ".join(text if text.endswith(".") else f"{text}." for text in map(str.rstrip, captions))


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


def _shuffle_within_trigrams(words: Words, rng: np.random.Generator) -> Words:
    return [word for trigram in _trigrams(words) for word in shuffle_words(trigram, rng)]


def _shuffle_trigrams(words: Words, rng: np.random.Generator) -> Words:
    trigrams = _trigrams(words)
    return [word for i in rng.permutation(len(trigrams)) for word in trigrams[i]]


_ORDER_SHUFFLES = (_swap_two, shuffle_words, _shuffle_within_trigrams, _shuffle_trigrams)


def shuffle_order(words: Words, rng: np.random.Generator) -> Words:
    """Reorders the words by one of four operations, after ARO's order perturbations (arXiv 2210.01936,
    appendix), but without a part-of-speech tagger.

    Returns the words unchanged only when they have no other order.
    """
    if len(words) < 2:
        return words
    for _ in range(8):
        shuffled = _ORDER_SHUFFLES[rng.integers(len(_ORDER_SHUFFLES))](words, rng)
        if shuffled != words:
            return shuffled
    return words[1:] + words[:1]


_ROWS: dict[str, Recipe] = {
    "positives": Recipe(positives=1),
    # For a base model that knows little besides objects: word order means nothing, and attributes are never named.
    "bag_of_words": Recipe(positives=1, rewrite=shuffle_words, attributes=False),
    "order_shuffles": Recipe(positives=1, rewrite_to_negative=shuffle_order, sentinel=True),
    "swaps": Recipe(positives=1, swaps=True, sentinel=True),
    "swaps_or_shuffles": Recipe(positives=1, swaps=True, rewrite_to_negative=shuffle_order, sentinel=True),
    # For datasets whose negatives already are order shuffles (coco_order, negclip_tsv).
    "one_pair": Recipe(positives=1, negatives=1, paired=True, sentinel=True),
    "single_pair": Recipe(positives=1, negatives=1, kind="complex", sentinel=True),
    "all_pairs": Recipe(positives="all", negatives="all", paired=True, repeat_image=True, sentinel=True),
    "two_pairs": Recipe(positives=2, negatives=2, paired=True),
    # CLIC's, of three captions of each image; "joined" needs one.
    "clic": Recipe(positives=3, joins=True),
    "joined": Recipe(positives=1, joins=True),
    "bindings": Recipe(positives=1, negatives=1, paired=True, kind="binding", sentinel=True),
    "positions": Recipe(positives=1, negatives=1, paired=True, kind="position", sentinel=True),
}
RECIPES: Registry[Recipe] = Registry(
    "naturel_jax.recipes", _ROWS, "a naturel_jax.data.batches.recipes.Recipe", lambda row: isinstance(row, Recipe)
)


def recipe(name: str) -> Recipe:
    """The recipe called ``name``. Raises UserError listing the names."""
    if name not in RECIPES:
        raise UserError(f"config.data.mixture: recipe {name!r} is unknown; expected one of: {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], name=name)
