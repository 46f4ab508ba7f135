"""Rule-based captions for any triplet, with the same operations and sentence shapes as the bank.

A sentence is a shape (existential, inverted, cleft, ...) around a predicate ("rests on", "is held by"). A negative has
the shape of its positive but swaps the roles or uses another relation's predicate, so neither words nor shapes give it
away.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from tfds_naturel.captions import lexicon
from tfds_naturel.captions.lexicon import Noun
from tfds_naturel.captions.relations import CONTRARIES, DEPICTED, RELATIONS, Relation, converse, excluded
from tfds_naturel.common.schema import PAIRS, Caption, Kind, Triplet

T = TypeVar("T")
Truth = Callable[[Triplet], bool]
Draw = Iterator[float]
_Words = tuple[str, tuple[str, ...], str]  # forms of an attribute: before the noun, after "is", after the noun
_Pair = tuple[str, str, str, Triplet | None, str]  # shape, positive, negative, what the negative claims, operation

DRAWS = 64  # more random numbers than any call uses


@dataclasses.dataclass(frozen=True)
class Predicate:
    """A predicate about X and Y. ``back``: X is the object of ``label``, as in "the mug is held by the man".

    ``finite`` (singular, plural) follows X, and ``modifier`` follows X without a finite verb. ``front`` and ``verbs``
    put Y before X ("on the desk" "is" "the cat") and are empty if that is not grammatical. ``simple`` goes between two
    bare nouns.
    """

    label: str
    back: bool
    finite: tuple[str, str]
    modifier: str
    simple: tuple[str, str]
    front: str = ""
    verbs: tuple[str, str] = ("", "")

    @property
    def passive(self) -> bool:
        """Whether the predicate is a passive verb."""
        return self.front.endswith(" by")

    def claim(self, x: str, y: str) -> Triplet:
        """The triplet that the predicate claims of the classes X and Y."""
        return Triplet(y, self.label, x) if self.back else Triplet(x, self.label, y)


def write(triplet: Triplet, rng: np.random.Generator, is_true: Truth | None = None) -> tuple[Caption, ...]:
    """8 captions for ``triplet``: (positive, negative) of the simple pair, then of the 3 complex pairs.

    ``is_true``: whether the image shows a triplet; no negative asserts a triplet for which it or its converse is true.
    Without it, negatives assert only what contradicts the triplet by meaning. A pure function of the triplet,
    ``is_true`` and the state of ``rng``.
    """
    draw = iter(rng.random(DRAWS).tolist())
    pairs = _attribute_pairs if triplet.relation == "is" else _relation_pairs
    captions = []
    for pair, (shape, positive, negative, claim, operation) in enumerate(pairs(triplet, draw, is_true)):
        kind: Kind = "complex" if pair else "simple"
        captions.append(Caption(positive, kind, "positive", pair, triplet, triplet, "", shape))
        captions.append(Caption(negative, kind, "negative", pair, triplet, claim, operation, shape))
    return tuple(captions)


def pick(options: Sequence[T], draw: Draw) -> T:
    """Picks one of ``options`` by the next number of ``draw``."""
    return options[int(next(draw) * len(options))]


def _relation_pairs(triplet: Triplet, draw: Draw, is_true: Truth | None) -> Iterator[_Pair]:
    forward = predicates(triplet.relation)
    yield _pair(triplet, forward[0], False, ["simple"], draw, is_true, lambda label: lexicon.nouns(label)[0])
    shapes = list(SHAPES)
    for _ in range(1, PAIRS):
        swapped = bool(reverse(triplet.relation)) and next(draw) < 0.5
        predicate = pick(reverse(triplet.relation) if swapped else forward, draw)
        pair = _pair(triplet, predicate, swapped, shapes, draw, is_true, lambda label: pick(lexicon.nouns(label), draw))
        shapes.remove(pair[0])
        yield shape_name(pair[0], predicate, swapped), *pair[1:]


def _pair(
    triplet: Triplet,
    predicate: Predicate,
    swapped: bool,
    shapes: list[str],
    draw: Draw,
    is_true: Truth | None,
    pick_noun: Callable[[str], Noun],
) -> _Pair:
    """A pair whose positive uses ``predicate``."""
    labels = (triplet.object, triplet.subject) if swapped else (triplet.subject, triplet.object)
    x, y = noun_pair(labels, pick_noun)
    other, swap_nouns, operation = _negative(triplet, predicate, labels, shapes == ["simple"], draw, is_true)
    usable = [shape for shape in shapes if fits(shape, predicate, other, operation)]
    shape = pick(usable, draw)
    articles = pick(ARTICLES, draw)
    nouns, claimed = ((y, x), labels[::-1]) if swap_nouns else ((x, y), labels)
    claim = None if operation == "denial" else other.claim(*claimed)
    texts = (render(shape, predicate, x, y, articles), render(shape, other, *nouns, articles))
    return shape, *texts, claim, operation


def noun_pair(labels: tuple[str, str], pick_noun: Callable[[str], Noun]) -> tuple[Noun, Noun]:
    """Two different nouns, one for each class."""
    x, y = (pick_noun(label) for label in labels)
    if x.text == y.text and labels[0] != labels[1]:  # e.g. two kinds of ball
        x, y = (lexicon.nouns(label)[0] for label in labels)
    return x, y.second() if x.text == y.text else y


def _negative(
    triplet: Triplet, predicate: Predicate, labels: tuple[str, str], simple: bool, draw: Draw, is_true: Truth | None
) -> tuple[Predicate, bool, str]:
    """(predicate, whether the two nouns are swapped, operation) of a false sentence that resembles the true one."""
    if (simple or next(draw) < 0.5) and _is_false(predicate.claim(*labels[::-1]), triplet, is_true):
        return predicate, True, "swap"
    groups = _rivals(triplet.relation, predicate, is_true is not None)
    start = int(next(draw) * len(groups)) if groups else 0
    for group in groups[start:] + groups[:start]:
        rival = group[0] if simple else pick(group, draw)
        if _is_false(rival.claim(*labels), triplet, is_true):
            return rival, False, "relation"
    if _is_false(predicate.claim(*labels[::-1]), triplet, is_true):
        return predicate, True, "swap"
    finite = (f"is not {predicate.modifier}", f"are not {predicate.modifier}")
    bare = (f"not {predicate.modifier}",) * 2
    return dataclasses.replace(predicate, finite=finite, simple=bare), False, "denial"


def _is_false(claim: Triplet, triplet: Triplet, is_true: Truth | None) -> bool:
    other = converse(claim)
    if triplet in (claim, other):
        return False
    if is_true is None:
        return excluded(triplet, claim)
    return not is_true(claim) and not (other and is_true(other))


@functools.cache
def predicates(label: str) -> tuple[Predicate, ...]:
    """Predicates whose X is the subject of ``label``, the plainest first.

    A label without an entry is treated as a third-person verb if it ends in s ("paints"), otherwise as a preposition
    ("next_to").
    """
    relation = RELATIONS.get(label)
    if relation is None:
        words = label.replace("_", " ")
        verb, _, rest = words.partition(" ")
        if not verb.endswith("s") or verb.endswith("ss"):
            relation = Relation((words,))
        else:
            finite = (words, f"{verb[:-1]} {rest}".strip())
            return (Predicate(label, False, finite, f"that {words}", finite),)
    if relation.verb:
        return tuple(p for word in relation.words for p in _active(label, word, False))
    return _prepositional(label, relation.words, relation.posture, False)


@functools.cache
def reverse(label: str) -> tuple[Predicate, ...]:
    """Predicates that express ``label`` with its object first: passives, converses, and dedicated words."""
    relation = RELATIONS.get(label, Relation(()))
    reversed_: list[Predicate] = []
    if relation.verb:
        reversed_ += [p for word in relation.words for p in _passive(label, word)]
    if relation.symmetric:
        reversed_ += [dataclasses.replace(p, back=True) for p in predicates(label)]
    if relation.converse:
        reversed_ += predicates(relation.converse)
    if relation.back_verb:
        reversed_ += [p for word in relation.back for p in _active(label, word, True)]
    else:
        reversed_ += _prepositional(label, relation.back, "", True)
    return tuple(reversed_)


def _prepositional(label: str, words: tuple[str, ...], posture: str, back: bool) -> tuple[Predicate, ...]:
    result = []
    for tense in (("is", "are"), ("was", "were")):
        for word in words:
            finite = (f"{tense[0]} {word}", f"{tense[1]} {word}")
            result.append(Predicate(label, back, finite, word, (word, word), word, tense))
    if posture:
        base, third, gerund = posture.split("/")
        for word in words:
            finite = (f"{third} {word}", f"{base} {word}")
            result.append(Predicate(label, back, finite, f"{gerund} {word}", (word, word), word, (third, base)))
    return tuple(result)


def _active(label: str, word: str, back: bool) -> Iterator[Predicate]:
    forms, _, particle = word.partition(" ")
    base, third, gerund, *_ = (f"{form} {particle}".strip() for form in forms.split("/"))
    simple = (third, base)
    for finite in (simple, (f"is {gerund}", f"are {gerund}"), (f"was {gerund}", f"were {gerund}")):
        yield Predicate(label, back, finite, gerund, simple)


def _passive(label: str, word: str) -> Iterator[Predicate]:
    if " " in word:  # "is danced with by"
        return
    participle = f"{word.split('/')[-1]} by"
    simple = (participle, participle)
    for one, many in (("is", "are"), ("was", "were"), ("is being", "are being")):
        verbs = (one.removesuffix(" being"), many.removesuffix(" being"))
        finite = (f"{one} {participle}", f"{many} {participle}")
        yield Predicate(label, True, finite, participle, simple, participle, verbs)


@functools.cache
def _rivals(label: str, predicate: Predicate, depicted: bool) -> tuple[tuple[Predicate, ...], ...]:
    """Predicates of other labels that may replace one of ``label`` in a negative, grouped by label.

    With a scene graph (``depicted``), any label that the graph can decide, otherwise labels that contradict ``label``.
    """
    relation = RELATIONS.get(label, Relation(()))
    others: Sequence[str] = (*relation.excludes, label)
    if depicted:
        others = [o for o in (*DEPICTED, *others) if o in DEPICTED or RELATIONS[o].converse in relation.excludes]
    groups = (
        tuple(p for p in (*predicates(o), *reverse(o)) if p.label != predicate.label and p.passive == predicate.passive)
        for o in others
        if o not in relation.implies
    )
    return tuple(group for group in groups if group)


# Shapes. Each puts a predicate between the noun phrases of X and Y; articles is a pair, each "a" or "the".

ARTICLES = (("the", "the"), ("a", "a"), ("a", "the"))


def phrase(noun: Noun, article: str) -> str:
    """The noun with ``article``, "a" or "the"."""
    return noun.the if article == "the" else noun.a


def sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    return text[0].upper() + text[1:] + "."


def be(noun: Noun) -> str:
    """The form of "is" that goes with ``noun``."""
    return ("is", "are")[noun.number]


SHAPES = {
    "plain": "{x} {finite} {y}",
    "existential": "there {is_x} {some_x} {modifier} {y}",
    "inverted": "{front} {y} {verbs} {x}",
    "relative": "here {is_x} {some_x} that {finite} {y}",
    "stranded": "{these} the {bare_y} that {x} {finite}",
    "participial": "the photo shows {some_x} {modifier} {y}",
    "cleft": "it is {x} that {finite} {y}",
    "with": "you can see {first_y} with {some_x} {modifier} {it}",
}


def render(shape: str, p: Predicate, x: Noun, y: Noun, articles: tuple[str, str]) -> str:
    """A sentence of one of ``SHAPES``, or a simple caption for any other ``shape``."""
    if shape not in SHAPES:
        return f"{x.text} {p.simple[x.number]} {y.text}"
    words = {
        "finite": p.finite[x.number],
        "modifier": p.modifier,
        "front": p.front,
        "verbs": p.verbs[x.number],
        "first_y": phrase(y, articles[0]),  # where Y comes first
        "these": ("this is", "these are")[y.number],
        "bare_y": y.text,
    }
    return sentence(SHAPES[shape].format_map(words | noun_words(x, y, articles)))


def noun_words(x: Noun, y: Noun, articles: tuple[str, str]) -> dict[str, str]:
    """Template field -> words that name X or Y."""
    return {
        "x": phrase(x, articles[0]),
        "y": phrase(y, articles[1]),
        "some_x": x.a,
        "is_x": be(x),
        "it": y.pronoun,
    }


_FRONTED = {"inverted", "with"}  # need a predicate that works without its verb
_FINITE = {"simple", "plain", "relative", "stranded", "cleft"}  # can be negated


def fits(shape: str, predicate: Predicate, other: Predicate, operation: str) -> bool:
    """Whether both captions of a pair can have the shape."""
    if shape in _FRONTED and not (predicate.front and other.front):
        return False
    return shape in _FINITE if operation == "denial" else True


def shape_name(shape: str, predicate: Predicate, swapped: bool) -> str:
    """The name of the shape; for a plain sentence with swapped roles, how they are swapped."""
    if shape != "plain" or not swapped:
        return shape
    return "passive" if predicate.passive else "converse"


# Attributes


def _attribute_pairs(triplet: Triplet, draw: Draw, is_true: Truth | None) -> Iterator[_Pair]:
    contraries = [Triplet(triplet.subject, "is", other) for other in CONTRARIES.get(triplet.object, ())]
    contraries = [claim for claim in contraries if _is_false(claim, triplet, is_true)]
    table = POSE_SHAPES if lexicon.pose(triplet.object) else ATTRIBUTE_SHAPES
    words = _attribute_words(triplet.object)
    shapes = [shape for shape in table if shape != "simple"]
    for pair in range(PAIRS):
        claim = pick(contraries, draw) if contraries else None
        other = _attribute_words(claim.object) if claim else _denied(words)
        nouns = lexicon.nouns(triplet.subject)
        noun = pick(nouns, draw) if pair else nouns[0]
        shape = shapes.pop(int(next(draw) * len(shapes))) if pair else "simple"
        attributive = table[shape]
        choice = next(draw)
        positive, negative = (attributive(noun, w, w[1][int(choice * len(w[1]))]) for w in (words, other))
        yield shape, positive, negative, claim, "attribute" if claim else "denial"


def _attribute_words(label: str) -> _Words:
    """Words for an attribute; for a pose, only those after "is" vary."""
    pose = lexicon.pose(label)
    return (pose[0], pose, pose[0]) if pose else lexicon.attribute(label)


def _denied(words: _Words) -> _Words:
    before, after, modifier = words
    denied = modifier.replace("that is", "that is not") if modifier.startswith("that") else f"not {modifier}"
    return f"non-{before}", tuple(f"not {word}" for word in after), denied


def _described(noun: Noun, before: str) -> str:
    return dataclasses.replace(noun, text=f"{before} {noun.text}").a


_AttributeShape = Callable[[Noun, _Words, str], str]
ATTRIBUTE_SHAPES: dict[str, _AttributeShape] = {
    "simple": lambda noun, words, after: f"{words[0]} {noun.text}",
    "plain": lambda noun, words, after: sentence(f"{noun.the} {be(noun)} {after}"),
    "existential": lambda noun, words, after: sentence(f"there {be(noun)} {_described(noun, words[0])} here"),
    "relative": lambda noun, words, after: sentence(f"here {be(noun)} {noun.a} that {be(noun)} {after}"),
    "participial": lambda noun, words, after: sentence(f"the photo shows {noun.a} {words[2]}"),
    "attributive": lambda noun, words, after: sentence(f"{_described(noun, words[0])} can be seen"),
    "cleft": lambda noun, words, after: sentence(f"it is {_described(noun, words[0])} that you see"),
}

# Poses and actions follow the noun: "a lying man" is a liar, and "a standing man" is rarely said.
POSE_SHAPES: dict[str, _AttributeShape] = {
    "simple": lambda noun, words, after: f"{noun.text} {words[2]}",
    "plain": lambda noun, words, after: sentence(f"{noun.the} {be(noun)} {after}"),
    "existential": lambda noun, words, after: sentence(f"there {be(noun)} {noun.a} here {noun.who} {be(noun)} {after}"),
    "relative": lambda noun, words, after: sentence(f"here {be(noun)} {noun.a} {noun.who} {be(noun)} {after}"),
    "fronted": lambda noun, words, after: sentence(f"in this photo {noun.the} {be(noun)} {after}"),
    "embedded": lambda noun, words, after: sentence(f"you can see that {noun.the} {be(noun)} {after}"),
    "stranded": lambda noun, words, after: sentence(f"{noun.the} that you see {be(noun)} {after}"),
}
