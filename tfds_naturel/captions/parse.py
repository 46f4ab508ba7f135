"""Parses captions: the classes they mention and the operation that produced a negative.

This is not a parser of English. A pair of captions is minimal, so the words that differ reveal the operation: the two
nouns were swapped, one attribute was replaced by another, or a word reversed the relation.
"""

import difflib
import functools
import itertools
import re
from collections import Counter

from tfds_naturel.captions import lexicon, places
from tfds_naturel.captions.attributes import ATTRIBUTES
from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.schema import Triplet

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|[\u00a7\u00b6]")
_MARKS = ("\u00a7", "\u00b6")  # stand for the subject and the object

# Words that negate the claim of the rest of the sentence ("before she put it down"), or leave it open.
NEGATIONS = frozenset(
    re.findall(
        r"\S+",
        "before yet not never no none nobody nothing neither nor without until soon later sooner will won't going "
        "about doubt nowhere isn't hasn't don't doesn't wasn't aren't can't cannot didn't wouldn't couldn't lacks lack "
        "any shortly",
    )
)
_UNDER = frozenset({"under", "beneath", "underneath", "below"})
_PREPOSITIONS = _UNDER | {"on", "atop", "upon", "onto", "above", "over", "beside", "behind", "off", "from"}
_PREPOSITIONS |= {"out", "outside", "front", "at", "in", "inside"}
_CONVERSES = {"on", "under"}
# Words whose exchange swaps the roles of two nouns: "the former beneath the latter", "from top to bottom".
_ORDERS = frozenset({"former", "latter", "first", "second", "top", "bottom", "up", "down", "upwards", "downwards"})
# Verb forms and nouns -> one word, for captions that contrast holding a thing with something else.
_MEANINGS = {
    **dict.fromkeys(("holds", "holding", "held", "holder", "grip"), "hold"),
    **dict.fromkeys(("carry", "carries", "carrying", "carried"), "hold"),
    **dict.fromkeys(("hits", "hitting", "hitter", "blow"), "hit"),
    **dict.fromkeys(("wears", "wearing", "worn"), "wear"),
    **dict.fromkeys(("plays", "playing", "played"), "play"),
}
_HANDS = {"hand", "hands", "arm", "arms"}
_BODY = {"back", "shoulder", "shoulders", "feet", "boots", "fastened", "tucked", "on", "in", "under", "from", "to"}
_REVERSING = {"is", "isn't", "not", "does", "doesn't", "has", "need", "needs"}  # "is" and "has" for "isn't", "hasn't"
_REVERSING |= {"former", "latter", "right", "wrong", "different", "same"}
_ATTRIBUTE_WORDS, _POSE_WORDS = (
    {word: one.name for one in ATTRIBUTES if one.pose == pose for word in one.words} for pose in (False, True)
)
_ARTICLES = frozenset({"a", "an", "the", "some"})
_NORMALIZED = {
    "are": "is",
    "were": "was",
    "have": "has",
    "these": "this",
    "them": "it",
    "him": "it",
    "her": "it",
    "his": "it",
}


def mentions(text: str, triplet: Triplet) -> set[str]:
    """The classes of ``triplet`` (one for an attribute) that ``text`` mentions by any of their listed words."""
    labels = {triplet.subject} if triplet.relation == "is" else {triplet.subject, triplet.object}
    return {label for label in labels if _pattern(label).search(text)}


def same_words(positive: str, negative: str, triplet: Triplet) -> bool:
    """Whether the captions of a pair differ in no word, apart from articles, number and what they exclude."""
    before, after = (_claimed(_words(text, triplet)) for text in (positive, negative))
    return before == after


def operation(positive: str, negative: str, triplet: Triplet) -> tuple[str, Triplet | None]:
    """(operation, what the negative claims), from the words that differ between the two captions of a pair.

    The claim is None for a denial, and where a spatial relation is replaced without naming the place.
    Raises ValueError if the difference does not make the negative false.
    """
    before, after = (_claimed(_words(text, triplet)) for text in (positive, negative))
    roles = tuple(mark for mark in before if mark in _MARKS), tuple(mark for mark in after if mark in _MARKS)
    relation = RELATIONS.get(triplet.relation)
    directed = relation and relation.verb and not relation.symmetric and triplet.subject != triplet.object
    if directed and _agent(before) == _MARKS[1]:
        raise ValueError(f"the positive has roles reversed: {triplet.object} acts on {triplet.subject}")
    if roles[0][::-1] == roles[1] != roles[0] and _masked(before) == _masked(after):
        return "swap", _swapped(after, triplet)
    lost, gained = _difference(before, after)
    if not lost and not gained:
        raise ValueError("the negative means the same as its positive")
    if triplet.relation == "is":
        return _attribute(after, lost, gained, triplet)
    if roles[0] == roles[1] and (claim := only_held(positive, negative, triplet)):
        return "relation", claim
    if roles[0] != roles[1]:
        raise ValueError("the negative swaps the nouns and also changes other words")
    if triplet.relation in _CONVERSES and len(before) == len(after):
        exchanged = {word for pair in zip(before, after, strict=True) if pair[0] != pair[1] for word in pair}
        if exchanged <= _ORDERS:
            return "swap", Triplet(triplet.object, triplet.relation, triplet.subject)
    if triplet.relation in places.SPATIAL and triplet.subject != triplet.object:
        full = _words(positive, triplet), _words(negative, triplet)
        if read := places.read(full, triplet, _MARKS) or places.read((before, after), triplet, _MARKS):
            return read
    if NEGATIONS & set(after):
        return "denial", None
    return "relation", None if triplet.relation in places.SPATIAL else _opposite(triplet)


def only_held(positive: str, negative: str, triplet: Triplet) -> Triplet | None:
    """What the negative claims if it says that a thing is held *and not* worn, hit or played; None if it does not.

    Somebody may hold what they wear. So the negative must have the words of its positive in another order ("held rather
    than worn"), place the thing elsewhere on the body, or have a word that reverses the sentence.
    """
    before, after = (Counter(_MEANINGS.get(w, w) for w in _words(text, triplet)) for text in (positive, negative))
    different = (before - after) | (after - before)
    if triplet.relation not in ("wears", "hits", "plays") or not (_HANDS | {"hold"}) & after.keys():
        return None
    if different.keys() <= _HANDS | _BODY | _REVERSING:
        return Triplet(triplet.subject, "holds", triplet.object)
    return None


def _pattern(label: str) -> re.Pattern[str]:
    return _listed(tuple(noun.text for noun in lexicon.nouns(label)))


@functools.cache
def _listed(words: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of ``words``, the longest first ("coffee table" before "table"), singular or plural."""
    longest = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest))})(?:e?s)?\b", re.IGNORECASE)


def _words(text: str, triplet: Triplet) -> list[str]:
    """Lowercased words, without articles, and with class names replaced by marks."""
    labels = [triplet.subject] if triplet.relation == "is" else [triplet.subject, triplet.object]
    marks = {noun.text: mark for label, mark in zip(labels, _MARKS, strict=False) for noun in lexicon.nouns(label)}
    text = _listed(tuple(marks)).sub(lambda match: marks[match[1].lower()], text)
    words: list[str] = _WORD.findall(text.lower())
    return [_NORMALIZED.get(word, word) for word in words if word not in _ARTICLES]


def _claimed(words: list[str]) -> list[str]:
    """``words`` without what they exclude: "under the desk, not on it" claims "under the desk"."""
    for i in range(len(words) - 2):
        negation, place, pronoun = words[i : i + 3]
        rest = words[:i] + words[i + 3 :]
        if negation == "not" and pronoun == "it" and place in _PREPOSITIONS and _PREPOSITIONS & set(rest):
            return rest
    return words


def _agent(words: list[str]) -> str:
    """The noun after the "by" of a passive; empty if there is none."""
    return next((word for by, word in itertools.pairwise(words) if by == "by" and word in _MARKS), "")


def _masked(words: list[str]) -> list[str]:
    return ["" if word in _MARKS else _base(word) for word in words]


def _base(word: str) -> str:
    """A verb without its ending, so that "catches" and "catch" are equal."""
    return word if word.endswith("ss") else word.removesuffix("s").removesuffix("e")


def _difference(before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    lost, gained = [], []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            lost += before[i:j]
            gained += after[k:m]
    return lost, gained


def _attribute(after: list[str], lost: list[str], gained: list[str], triplet: Triplet) -> tuple[str, Triplet | None]:
    named = _POSE_WORDS if lexicon.pose(triplet.object) else _ATTRIBUTE_WORDS
    others = {named[word] for word in after if word in named} - {triplet.object}
    if len(others) == 1:
        return "attribute", Triplet(triplet.subject, "is", others.pop())
    if NEGATIONS & {*lost, *gained} or {"is", "isn't"} & {*lost, *gained}:
        return "denial", None
    raise ValueError(f"no other attribute in the words that differ; use one of {', '.join(sorted(named))}")


def _opposite(triplet: Triplet) -> Triplet:
    relation = RELATIONS.get(triplet.relation)
    if not relation or not relation.excludes:
        raise ValueError(
            f"relation {triplet.relation!r} has no opposite for a negative to claim; swap the roles instead"
        )
    return Triplet(triplet.subject, relation.excludes[0], triplet.object)


def _swapped(words: list[str], triplet: Triplet) -> Triplet:
    """The triplet claimed after a swap: "the desk is under the cat" becomes "the cat is under the desk"."""
    if triplet.relation == "on" and _UNDER & set(words):
        return Triplet(triplet.subject, "under", triplet.object)
    return Triplet(triplet.object, triplet.relation, triplet.subject)
