"""Captions of bindings and positions: facts of an image against the same facts exchanged ("A plastic chair and a wooden
table." / "A wooden chair and a plastic table.").

The words are a function of the facts alone, and never of which of the two claims is true.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tfds_naturel.captions import grammar, lexicon
from tfds_naturel.captions.grammar import be, sentence
from tfds_naturel.captions.lexicon import Noun
from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.schema import Exchange, Facts, Triplet, name_of

LEFT, RIGHT, ABOVE, BELOW = "left_of", "right_of", "above", "below"
CONVERSE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE}
_SIDE = {LEFT: "left", RIGHT: "right"}
_HEIGHT = {ABOVE: "higher up", BELOW: "lower down"}


def rows(exchange: Exchange, group: int) -> list[dict[str, Any]]:
    """The rows of ``captions`` (``schema.features``) for the caption group number ``group``: one pair in all its
    wordings, (positive, negative) of each."""
    words = _position if exchange.kind == "position" else _binding
    shared: dict[str, Any] = {"kind": exchange.kind, "group": group, "pair": 0, "triplet": ""}
    found = []
    both = zip(words(exchange.true), words(exchange.false), strict=False)  # a last wording may fit only one of the two
    for number, ((shape, positive), (_, negative)) in enumerate(both):
        own = shared | {"paraphrase": number, "shape": shape}
        claims = (("positive", positive, exchange.true, ""), ("negative", negative, exchange.false, "exchange"))
        for polarity, text, facts, operation in claims:
            found.append(own | {"text": text, "polarity": polarity, "asserts": name_of(facts), "operation": operation})
    return found


_Wordings = Iterator[tuple[str, str]]  # shape and text


def _position(facts: Facts) -> _Wordings:
    """Wordings of one fact such as Chair|right_of|Dog. In the first and third, a false caption has the other side; in
    the others, the two names have changed places. None says where in the image either is: both may be in its left half.
    """
    ((subject, relation, object_),) = facts
    x, y = _noun(subject), _noun(object_)
    first, last = (x, y) if relation in (LEFT, ABOVE) else (y, x)  # from left to right, or from top to bottom
    if relation in _SIDE:
        side, other = _SIDE[relation], _SIDE[CONVERSE[relation]]
        yield "plain", sentence(f"{x.a} {be(x)} to the {side} of {y.a}")
        yield "fronted", sentence(f"to the right of {first.the} {be(last)} {last.a}")
        yield "with", sentence(f"{x.a} with {y.a} to the {other} of {x.pronoun}")
        yield "existential", sentence(f"there {be(first)} {first.a} to the left of {last.a}")
    else:
        yield "plain", sentence(f"{x.a} {be(x)} {relation} {y.a}")
        yield "fronted", sentence(f"above {last.the} {be(first)} {first.a}")
        yield "two", sentence(f"{x.the} {be(x)} {_HEIGHT[relation]} in the picture than {y.the}")
        yield "existential", sentence(f"there {be(last)} {last.a} below {first.a}")


def _binding(facts: Facts) -> _Wordings:
    """Wordings of two facts about different subjects, in the order of the facts."""
    if facts[0].relation != "is":
        return _related(*facts)
    return _described(*facts)


def _described(one: Triplet, two: Triplet) -> _Wordings:
    """Two attributes, or two poses."""
    (x, before_x, after_x, modifier_x), (y, before_y, after_y, modifier_y) = map(_attribute, (one, two))
    shared = one.object == two.object
    if not lexicon.pose(one.object):
        yield "two", sentence(f"{before_x} and {before_y}")
        yield "existential", sentence(f"there {be(x)} {before_x} and {before_y}")
    elif shared:
        yield "relative", sentence(f"there {be(x)} {x.a} and {y.a} who are both {after_x}")
    else:
        yield "relative", sentence(f"there {be(x)} {x.a} {x.who} {be(x)} {after_x} and {y.a} {y.who} {be(y)} {after_y}")
    if shared:
        yield "plain", sentence(f"{x.the} and {y.the} are both {after_x}")
        yield "participial", sentence(f"{x.a} and {y.a}, both {after_x}")
        return
    yield "plain", sentence(f"{x.the} {be(x)} {after_x}, and {y.the} {be(y)} {after_y}")
    yield "participial", sentence(f"{x.a} {modifier_x} and {y.a} {modifier_y}")


def _attribute(fact: Triplet) -> tuple[Noun, str, str, str]:
    """The noun, the noun with its attribute before it, and the attribute after "is" and after the noun."""
    noun, pose = _noun(fact.subject), lexicon.pose(fact.object)
    before, after, modifier = (pose[0], pose, pose[0]) if pose else lexicon.attribute(fact.object)
    described = dataclasses.replace(noun, text=f"{before} {noun.text}")
    return noun, described.a, after[0], modifier.replace("that is", f"that {be(noun)}")


def _related(one: Triplet, two: Triplet) -> _Wordings:
    """Two relations. If both have the same object, there is only one in the image."""
    x, y, of_x, of_y = map(_noun, (one.subject, two.subject, one.object, two.object))
    if one[1:] == two[1:]:
        yield from _related_alike(one, x, y, of_x)
        return
    (finite_x, modifier_x), (finite_y, modifier_y) = _predicate(one.relation, x), _predicate(two.relation, y)
    same, it = one.object == two.object, of_x.pronoun
    the_second, a_second = (it, it) if same else (of_y.the, of_y.a)
    yield "plain", sentence(f"{x.the} {finite_x} {of_x.the}, and {y.the} {finite_y} {the_second}")
    yield "participial", sentence(f"{x.a} {modifier_x} {of_x.a} and {y.a} {modifier_y} {a_second}")
    yield "existential", sentence(f"there {be(x)} {x.a} {modifier_x} {of_x.a} and {y.a} {modifier_y} {a_second}")
    if same and not (RELATIONS[one.relation].verb or RELATIONS[two.relation].verb):
        has = ("has", "have")[of_x.number]
        yield "with", sentence(f"{of_x.the} {has} {x.the} {modifier_x} {it} and {y.the} {modifier_y} {it}")


def _related_alike(fact: Triplet, x: Noun, y: Noun, of_both: Noun) -> _Wordings:
    """``_related``, in its order, where ``y`` too stands in the relation of ``fact`` to its object."""
    _, modifier = _predicate(fact.relation, x)
    yield "plain", sentence(f"{x.the} and {y.the} are {modifier} {of_both.the}")
    yield "participial", sentence(f"{x.a} and {y.a} {modifier} {of_both.a}")
    yield "existential", sentence(f"there {be(x)} {x.a} and {y.a} {modifier} {of_both.a}")
    if not RELATIONS[fact.relation].verb:
        has = ("has", "have")[of_both.number]
        yield "with", sentence(f"{of_both.the} {has} {x.the} and {y.the} {modifier} {of_both.pronoun}")


def _predicate(relation: str, x: Noun) -> tuple[str, str]:
    """("is holding", "holding") or ("is on", "on")."""
    modifier = grammar.predicates(relation)[0].modifier
    return f"{be(x)} {modifier}", modifier


def _noun(label: str) -> Noun:
    return lexicon.nouns(label)[0]


def relations_of(facts: Facts) -> str:
    """The relations in ``facts``, for counts: ``is``, ``holds``, ``on + under``, ``left_of``."""
    return " + ".join(sorted({fact.relation for fact in facts}))
