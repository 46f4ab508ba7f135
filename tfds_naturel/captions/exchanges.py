"""Captions of bindings and positions: facts of an image against the same facts exchanged ("A plastic chair at a wooden
table." / "A wooden chair at a plastic table.").

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

LEFT, RIGHT, BESIDE = "left_of", "right_of", "beside"
CONVERSE = {LEFT: RIGHT, RIGHT: LEFT}
_PREPOSITIONS = {"inside_of": "in", BESIDE: "next to"}  # plainer ones than the grammar's first
_CARRIED = {"Handbag", "Briefcase", "Suitcase", "Snowboard"}  # nobody writes that somebody "wears" one
_TABLES = {"Table", "Coffee table"}


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
    """Wordings of a fact such as Boy|left_of|Dog: in the first, a false caption has the two names exchanged, in others
    the two sides. With Boy|at|Table, of Boy|left_of|Table."""
    subject, relation, object_ = facts[-1]
    x, y, side = _noun(subject), _noun(object_), relation.removesuffix("_of")
    if len(facts) == 2:
        yield "participial", sentence(f"{x.a} on the {side} side of {y.a}")
        if x.person:  # comes first: nobody writes "A desk with a man on the right side."
            yield "fragment", sentence(f"{x.a} at {y.a}, on the {side} side")
        else:
            yield "with", sentence(f"{y.a} with {x.a} on the {side} side")
    else:
        first, last = (x, y) if relation == LEFT else (y, x)
        yield "two", sentence(f"{first.a} on the left and {last.a} on the right")
        yield "with", sentence(f"{x.a} and {y.a}, with {x.the} on the {side}")
        yield "participial", sentence(f"{x.a} to the {side} of {y.a}")


def _binding(facts: Facts) -> _Wordings:
    """Wordings of two facts about different subjects, in the order of the facts. Two attributes may come with what
    joins the two things."""
    attributes, relations = ([fact for fact in facts if (fact.relation == "is") == of] for of in (True, False))
    if not attributes:
        return _related(*relations)
    if lexicon.pose(attributes[0].object):
        return _posed(*attributes)
    described = {fact.subject: _described(fact) for fact in attributes}
    return _joined(relations[0], described) if relations else _apart(*described.values())


def _described(fact: Triplet) -> Noun:
    """The noun with its attribute before it."""
    noun, before = _noun(fact.subject), lexicon.attribute(fact.object)[0]
    if fact.object == "Transparent":
        before = "see-through" if fact.subject in _TABLES else "clear"
    return dataclasses.replace(noun, text=f"{before} {noun.text}")


def _apart(x: Noun, y: Noun) -> _Wordings:
    """Two attributes of what nothing joins."""
    yield "two", sentence(f"{x.a} and {y.a}")
    yield "reversed", sentence(f"{y.a} and {x.a}")


def _joined(fact: Triplet, described: dict[str, Noun]) -> _Wordings:
    """Two attributes of what ``fact`` joins."""
    x, y = described[fact.subject], described[fact.object]
    finite, modifier = _predicate(fact, x)
    yield "participial", sentence(f"{x.a} {modifier} {y.a}")
    if RELATIONS[fact.relation].verb or fact.relation in CONVERSE:
        yield "plain", sentence(f"{x.a} {finite} {y.a}")
    else:
        there = "" if fact.relation == "at" else f" {modifier} {y.pronoun}"
        yield "with", sentence(f"{y.a} with {x.a}{there}")


def _posed(one: Triplet, two: Triplet) -> _Wordings:
    """Two poses."""
    x, y = _noun(one.subject), _noun(two.subject)
    pose_x, pose_y = (lexicon.pose(fact.object)[0] for fact in (one, two))
    if one.object == two.object:
        yield from _said(f"{x.a} and {y.a} {pose_x}", f"{x.a} and {y.a} are {pose_x}")
    else:
        yield from _said(f"{x.a} {pose_x} and {y.a} {pose_y}", f"{x.a} {be(x)} {pose_x} and {y.a} {be(y)} {pose_y}")


def _related(one: Triplet, two: Triplet) -> _Wordings:
    """Two relations. If both have the same object, there is only one in the image."""
    x, y, of_x, of_y = map(_noun, (one.subject, two.subject, one.object, two.object))
    (finite_x, modifier_x), (finite_y, modifier_y) = _predicate(one, x), _predicate(two, y)
    it = of_x.pronoun
    if one[1:] == two[1:]:
        both, (finite, _) = f"{x.a} and {y.a}", _predicate(one, dataclasses.replace(x, plural=True))
        yield from _said(f"{both} {modifier_x} {of_x.a}", f"{both} {finite} {of_x.a}")
        around = f"{both} {modifier_x} {it}"
    else:
        second = it if one.object == two.object else of_y.a
        phrase, clause = f"{y.a} {modifier_y} {second}", f"{y.a} {finite_y} {second}"
        yield from _said(f"{x.a} {modifier_x} {of_x.a} and {phrase}", f"{x.a} {finite_x} {of_x.a} and {clause}")
        around = f"{x.a} {modifier_x} {it} and {phrase}"
    acts = any(RELATIONS[fact.relation].verb or fact.relation == "at" for fact in (one, two))
    if one.object == two.object and not acts:
        yield "with", sentence(f"{of_x.a} with {around}")


def _said(phrase: str, clause: str) -> _Wordings:
    """Two facts as a noun phrase, and as a clause of each."""
    yield "participial", sentence(phrase)
    yield "plain", sentence(clause)


def _predicate(fact: Triplet, x: Noun) -> tuple[str, str]:
    """("is holding", "holding") or ("is on", "on")."""
    if fact.relation == "wears" and fact.object in _CARRIED:
        return ("has", "have")[x.number], "with"
    modifier = _PREPOSITIONS.get(fact.relation) or grammar.predicates(fact.relation)[0].modifier
    return f"{be(x)} {modifier}", modifier


def _noun(label: str) -> Noun:
    return lexicon.nouns(label)[0]


def relations_of(facts: Facts) -> str:
    """The relations in ``facts``, for counts: ``is``, ``holds``, ``on + under``, ``left_of``; without what joins two
    things with attributes or on a side."""
    found = {fact.relation for fact in facts}
    return next((said for said in ("is", LEFT, RIGHT) if said in found), " + ".join(sorted(found)))
