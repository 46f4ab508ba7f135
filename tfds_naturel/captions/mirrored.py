"""Captions for a drawn world, where all other images are known, so that the words do not tell which caption is true.

A triplet has rivals: triplets of the same two classes, with shares that are equal in both directions. A pair of
captions is written for a triplet and a rival, or for a triplet and its swapped roles, by rules that do not know which
of the two is true. So every pair is written equally often with its captions exchanged.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfds_naturel.captions import grammar, lexicon
from tfds_naturel.captions.grammar import SHAPES, Draw, Predicate, pick, sentence
from tfds_naturel.captions.lexicon import Noun
from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.schema import PAIRS, Caption, Kind, Triplet

_CONTRASTED = 0.5  # share of the complex pairs that contrast two triplets which cannot both be true


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another triplet of the same two classes, which negatives claim in a ``share`` of the pairs.

    ``weak``: an image of the triplet may show the rival, too; ``strong``: an image of the rival may show the triplet,
    too. In both cases, captions state one and deny the other: "just holding it, not playing it".
    """

    triplet: Triplet
    share: float
    weak: bool
    strong: bool


def needs_rivals(triplet: Triplet) -> bool:
    """Whether the triplet is also true with its roles swapped."""
    return triplet.relation in RELATIONS and RELATIONS[triplet.relation].symmetric


def write(triplet: Triplet, rivals: Sequence[Rival], rng: np.random.Generator) -> tuple[Caption, ...]:
    """8 captions for a relation, in the order of ``grammar.write``; a pure function of the arguments and the state of
    ``rng``.

    A pair without a rival swaps roles. These are the pairs that the shares leave, and the simple ones, unless the
    triplet or its rival needs rivals. Raises ValueError for a triplet that needs rivals and has none.
    """
    if needs_rivals(triplet) and not rivals:
        raise ValueError(f"{triplet}: has no rivals, and is true with its roles swapped: no negative can be made")
    draw: Draw = iter(rng.random(grammar.DRAWS).tolist())
    captions: list[Caption] = []
    shapes = [*SHAPES, *CONTRASTS]
    for pair in range(PAIRS):
        rival = _draw_rival(triplet, rivals, not pair, draw)
        kind: Kind = "complex" if pair else "simple"
        shape, texts, claim = _pair(triplet, rival, shapes if pair else ["simple"], draw)
        if pair:
            shapes.remove(shape)
        captions.append(Caption(texts[0], kind, "positive", pair, triplet, triplet, "", shape))
        operation = "relation" if rival else "swap"
        captions.append(Caption(texts[1], kind, "negative", pair, triplet, claim, operation, shape))
    return tuple(captions)


def _draw_rival(triplet: Triplet, rivals: Sequence[Rival], simple: bool, draw: Draw) -> Rival | None:
    left = next(draw)
    for rival in rivals:
        if not simple or needs_rivals(triplet) or needs_rivals(rival.triplet):
            left -= rival.share
            if left < 0:
                return rival
    return rivals[-1] if needs_rivals(triplet) else None  # shares may miss 1 by rounding


def _pair(
    triplet: Triplet, rival: Rival | None, shapes: Sequence[str], draw: Draw
) -> tuple[str, tuple[str, str], Triplet]:
    """(shape, (positive, negative), what the negative claims)."""
    simple = shapes == ["simple"]
    options = _options(triplet, rival.triplet if rival else None, simple)
    alike = [option for option in options if _alike(*option[1:])]
    deny = rival and (simple or rival.weak or rival.strong or not alike or next(draw) < _CONTRASTED)
    labels, own, other = pick(options if deny else alike, draw)
    x, y = grammar.noun_pair(
        labels, lambda label: lexicon.nouns(label)[0] if simple else pick(lexicon.nouns(label), draw)
    )
    articles = pick(grammar.ARTICLES, draw)
    if rival and deny:
        said = _Said.of(own, x, just=rival.strong), _Said.of(other, x, just=rival.weak)
        shape = "simple" if simple else pick([shape for shape in shapes if shape in CONTRASTS], draw)
        texts = _contrast(shape, *said, x, y, articles), _contrast(shape, *said[::-1], x, y, articles)
        return shape, texts, other.claim(*labels)
    shape = pick([s for s in shapes if simple or (s in SHAPES and grammar.fits(s, own, other, "relation"))], draw)
    nouns, claimed = ((x, y), labels) if rival else ((y, x), labels[::-1])
    texts = grammar.render(shape, own, x, y, articles), grammar.render(shape, other, *nouns, articles)
    return shape, texts, other.claim(*claimed)


_Option = tuple[tuple[str, str], Predicate, Predicate]  # classes of X and Y, and the predicate of each triplet


def _options(triplet: Triplet, rival: Triplet | None, simple: bool) -> list[_Option]:
    """All ways to state a triplet and its rival (default: itself) about X and Y, or only the plainest."""
    options: list[_Option] = []
    for x, y in ((triplet.subject, triplet.object), (triplet.object, triplet.subject)):
        own, other = (_predicates(t, x)[: 1 if simple else None] for t in (triplet, rival or triplet))
        options += [((x, y), p, q) for p, q in itertools.product(own, other) if rival or p == q]
    return options[:1] if simple and rival is None else options


def _predicates(triplet: Triplet, first: str) -> tuple[Predicate, ...]:
    return (grammar.predicates if triplet.subject == first else grammar.reverse)(triplet.relation)


def _alike(own: Predicate, other: Predicate) -> bool:
    """Whether the two are in the same voice and tense."""
    return own.passive == other.passive and own.finite[0].startswith("was ") == other.finite[0].startswith("was ")


# Contrasts. Each states one predicate about X and Y and denies another.


class _Said(NamedTuple):
    """A predicate in the forms "is on", "being on" and "on", each with "just" if it is the weaker of the two."""

    finite: str
    gerund: str
    modifier: str

    @classmethod
    def of(cls, p: Predicate, x: Noun, just: bool) -> "_Said":
        finite, gerund = p.finite[x.number], p.modifier if p.modifier != p.front else f"being {p.modifier}"
        if not just:
            return cls(finite, gerund, p.modifier)
        first, _, rest = finite.partition(" ")
        finite = f"{first} just {rest}" if first in ("is", "are", "was", "were") else f"just {finite}"
        return cls(finite, f"just {gerund}", f"just {p.modifier}")


CONTRASTS = {
    "instead": "instead of {not_gerund} {y}, {x} {finite} {it}",
    "rather": "{x} {finite} {y} rather than {not_gerund} {it}",
    "but": "{x} {is_x} not {not_modifier} {y} but {modifier} {it}",
    "not": "you can see {some_x} {modifier} {y}, not {not_modifier} {it}",
}


def _contrast(shape: str, said: _Said, denied: _Said, x: Noun, y: Noun, articles: tuple[str, str]) -> str:
    """A sentence of one of ``CONTRASTS``, or a simple caption for any other ``shape``."""
    if shape not in CONTRASTS:
        return f"{x.text} {said.modifier} {y.text}, not {denied.modifier} {y.pronoun}"
    words = said._asdict() | {f"not_{name}": words for name, words in denied._asdict().items()}
    return sentence(CONTRASTS[shape].format_map(words | grammar.noun_words(x, y, articles)))
