"""Items of the benchmark twins: drawn images with true statements, and false ones that differ by one operation."""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.scenes.scene import Scene, ScenesConfig, compose
from tfds_naturel.scenes.sprite import COLOURS

_STREAM = 0x7E57  # differs from the number of every split
_VGA_PAIR = 25  # VG-Attribution scores an ordered pair of attributes only if it has at least 25 cases
PHRASES = {
    "on": "on",
    "under": "under",
    "left_of": "to the left of",
    "right_of": "to the right of",
    "inside_of": "inside",
    "holds": "holding",
    "wears": "wearing",
    "plays": "playing",
    "hits": "hitting",
    "at": "at",
}
_SYNONYMS = PHRASES | {
    "on": "atop",
    "under": "beneath",
    "left_of": "on the left of",
    "right_of": "on the right of",
    "inside_of": "within",
    "holds": "gripping",
    "wears": "sporting",
    "hits": "striking",
    "at": "right by",
}
_PARTICIPLES = {"holds": "held", "wears": "worn", "plays": "played", "hits": "hit"}
_SWAPPABLE = tuple(relation for relation in PHRASES if not RELATIONS[relation].symmetric)
_SCORED = tuple(relation for relation in _SWAPPABLE if relation != "plays")  # ARO excludes "playing" from VG-Relation


@dataclasses.dataclass(frozen=True)
class Statement:
    """A caption, the triplets it claims, any other classes it mentions, and those that it says are not there."""

    text: str
    claims: tuple[Triplet, ...]
    mentions: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def is_true(self, scene: Scene) -> bool:
        """Whether a viewer could say that the whole caption is true of the image."""
        shown = {thing.label for thing in scene.things}
        return all(map(scene.is_true, self.claims)) and set(self.mentions) <= shown and not shown & set(self.lacks)


@dataclasses.dataclass(frozen=True)
class Item:
    """Two images and two statements, of which statement k is true of image k only; or one image and statements, the
    true ones first."""

    scenes: tuple[Scene, ...]
    statements: tuple[Statement, ...]
    tag: str
    unseen: bool


@dataclasses.dataclass(frozen=True)
class _Case:
    """The input for an item: a composition, two colours that both its classes can have (unused for kinds without
    colours), and a seed."""

    config: ScenesConfig
    triplet: Triplet
    colours: tuple[str, str]
    unseen: bool
    seed: tuple[int, ...]

    def scene(self, triplet: Triplet, first: str | None = None, second: str | None = None) -> Scene:
        return compose(triplet, (first, second), self.config, np.random.default_rng(self.seed))

    def item(self, statements: tuple[Statement, ...], *scenes: Scene, tag: str = "") -> Item:
        return Item(scenes, statements, tag, self.unseen)

    def flip(self, coin: int = 0) -> bool:
        """Heads or tails, to balance how statements are said."""
        return bool(np.random.default_rng((*self.seed, 2, coin)).integers(2))


def _swapped(triplet: Triplet) -> Triplet:
    return Triplet(triplet.object, triplet.relation, triplet.subject)


def _relation(triplet: Triplet, *colours: str | None) -> Statement:
    """'the red cat is on the table', with the colours of subject and object, if any."""
    named = zip((triplet.subject, triplet.object), colours, strict=False)
    claims = (triplet, *(Triplet(label, "is", colour) for label, colour in named if colour))
    return Statement(_say(claims), claims)


_IS, _RELATIVE = "{subject} is {phrase} {object}", "the {noun} that is {colour}"


def _say(
    claims: tuple[Triplet, ...],
    sentence: str = _IS,
    phrases: Mapping[str, str] = PHRASES,
    coloured: str = "the {colour} {noun}",
) -> str:
    """The first claim, a relation, with the colours that further claims give to its classes."""
    colours = {claim.subject: claim.object for claim in claims[1:]}
    subject, relation, obj = claims[0]
    nouns = {role: _noun(name, colours.get(name), coloured) for role, name in (("subject", subject), ("object", obj))}
    return sentence.format(phrase=phrases[relation], **nouns)


def _noun(label: str, colour: str | None = None, coloured: str = "the {colour} {noun}") -> str:
    return coloured.format(colour=colour.lower(), noun=label.lower()) if colour else f"the {label.lower()}"


def _enumerate(claims: tuple[Triplet, ...]) -> str:
    """'the red cat and the blue table', for the attributes of two classes."""
    return " and ".join(_noun(claim.subject, claim.object) for claim in claims)


def _both_coloured(triplet: Triplet, first: str, second: str) -> Statement:
    attributes = Triplet(triplet.subject, "is", first), Triplet(triplet.object, "is", second)
    return Statement(_enumerate(attributes), attributes)


def _swap_roles(case: _Case, images: int = 2) -> Item:
    both = case.triplet, _swapped(case.triplet)
    return case.item((_relation(both[0]), _relation(both[1])), *map(case.scene, both[:images]), tag="Object")


def _swap_colours(case: _Case, images: int = 2) -> Item:
    t, (a, b) = case.triplet, case.colours
    scenes = (case.scene(t, *colours) for colours in ((a, b), (b, a))[:images])
    return case.item((_relation(t, a, b), _relation(t, b, a)), *scenes, tag="Relation")


def _swap_roles_of_coloured(case: _Case) -> Item:
    t, (a, b) = case.triplet, case.colours
    swapped = _swapped(t)
    statements = _relation(t, a), _relation(swapped, a)
    return case.item(statements, case.scene(t, a, b), case.scene(swapped, a, b), tag="Both")


def _name_colours(case: _Case) -> Item:
    t, (a, b) = case.triplet, case.colours
    return case.item((_both_coloured(t, a, b), _both_coloured(t, b, a)), case.scene(t, a, b))


def _replace_object(case: _Case) -> Item:
    t = case.triplet
    scene = case.scene(t)
    return case.item((_relation(t), _relation(Triplet(_absent(case, scene), t.relation, t.object))), scene)


def _wrong_attribute(case: _Case, named: bool) -> Item:
    """The subject is in the first colour, which the true statement may name; the false one names the second."""
    t, (a, b) = case.triplet, case.colours
    true = _relation(t, a) if named else _relation(t)
    return case.item((true, _relation(t, b)), case.scene(t, a, None))


def _replace_relation(case: _Case, as_shown: tuple[str, ...] = ()) -> Item:
    """``as_shown``: the false relation is one of these that other images show of the same classes, where there is one,
    so that its text does not give it away."""
    t = case.triplet
    scene = case.scene(t)
    false = [r for r in PHRASES if not scene.is_true(Triplet(t.subject, r, t.object))]
    if as_shown:
        shown = {other for world in case.config.compositions() for other in world.pairs}
        false = [r for r in false if r in as_shown]
        false = [r for r in false if Triplet(t.subject, r, t.object) in shown] or false
    other = false[int(np.random.default_rng((*case.seed, 1)).integers(len(false)))]
    return case.item((_relation(t), _relation(Triplet(t.subject, other, t.object))), scene)


def _add_object(case: _Case) -> Item:
    scene, true = case.scene(case.triplet), _relation(case.triplet)
    absent = _absent(case, scene)
    return case.item((true, Statement(f"{true.text} with {_noun(absent)}", true.claims, (absent,))), scene)


def _absent(case: _Case, scene: Scene) -> str:
    present = {thing.label for thing in scene.things}
    others = [label for label in case.config.classes if label not in present]
    return others[int(np.random.default_rng((*case.seed, 1)).integers(len(others)))]


def _reworded(case: _Case, make: Callable[[_Case], Item], say: Callable[[tuple[Triplet, ...]], str]) -> Item:
    """The item of ``make`` with its true statement in two wordings, and the false one in either of them."""
    item = make(case)
    true, false = item.statements
    again, twisted = (dataclasses.replace(one, text=say(one.claims)) for one in (true, false))
    return dataclasses.replace(item, statements=(true, again, twisted if case.flip() else false))


def _voices(case: _Case) -> Item:
    """Who did it to whom, in the active and the passive voice: two true and two false statements."""
    both = case.triplet, _swapped(case.triplet)
    said = ((_IS, PHRASES), ("{object} is {phrase} by {subject}", _PARTICIPLES))
    return case.item(
        tuple(Statement(_say((t,), *voice), (t,)) for t in both for voice in said), case.scene(case.triplet)
    )


def _half_truths(case: _Case) -> Item:
    """Two facts in either order; of a false statement, one is true and the other is not."""
    t, (a, b) = case.triplet, case.colours
    painted = (a, None) if case.flip(1) else (None, a)
    label = t.subject if painted[0] else t.object
    colour, other, swapped = Triplet(label, "is", a), Triplet(label, "is", b), _swapped(t)
    halves = ((swapped, colour), (other, t)) if case.flip() else ((colour, swapped), (t, other))
    statements = tuple(
        Statement(" and ".join(map(_fact, claims)), claims) for claims in ((t, colour), (colour, t), *halves)
    )
    return case.item(statements, case.scene(t, *painted))


def _fact(claim: Triplet) -> str:
    if claim.relation == "is":
        return f"{_noun(claim.subject)} is {claim.object.lower()}"
    return _say((claim,))


def _relative_clauses(case: _Case) -> Item:
    """'the cat that is red is on the table': of a false statement, the roles or the colours are swapped."""
    t, (a, b) = case.triplet, case.colours
    swapped = _swapped(t)
    first, second = ((t, Triplet(label, "is", colour)) for label, colour in ((t.subject, a), (t.object, b)))
    false = [(swapped, first[1]), (t, Triplet(t.subject, "is", b))]
    if case.flip():
        false = [(swapped, second[1]), (t, Triplet(t.object, "is", a))]
    statements = tuple(Statement(_say(claims, coloured=_RELATIVE), claims) for claims in (first, second, *false))
    return case.item(statements, case.scene(t, a, b))


def _negation(case: _Case, true: str) -> Item:
    """A statement that affirms, negates or does both, as ``true`` says, and three false ones, one of each sort."""
    scene = case.scene(case.triplet)
    here, there = (case.triplet.subject, case.triplet.object)[:: -1 if case.flip() else 1]
    absent = _absent(case, scene)
    said = {
        "positive": _both_there(here, there),
        "negative": _not_there(absent),
        "hybrid": _only_one_there(here, absent),
    }
    hybrid = _only_one_there(here, there) if case.flip(1) else _only_one_there(absent, here)
    return case.item((said[true], _both_there(here, absent), _not_there(here), hybrid), scene, tag=true)


def _both_there(first: str, second: str) -> Statement:
    return Statement(f"the photo shows {_noun(first)} and {_noun(second)}", (), mentions=(first, second))


def _only_one_there(first: str, second: str) -> Statement:
    return Statement(f"the photo shows {_noun(first)} but not {_noun(second)}", (), mentions=(first,), lacks=(second,))


def _not_there(label: str) -> Statement:
    return Statement(f"{_noun(label)} is not in the photo", (), lacks=(label,))


def _describe(case: _Case) -> Item:
    colours = [colour or None for colour in case.colours]
    return case.item((_relation(case.triplet, *colours),), case.scene(case.triplet, *colours))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of items: how they are made, and which compositions they need."""

    make: Callable[[_Case], Item]
    coloured: bool = False
    relations: tuple[str, ...] = tuple(PHRASES)


_name_roles = functools.partial(_swap_roles, images=1)
_ROLES = Kind(_swap_roles, relations=_SWAPPABLE)
_COLOURS = Kind(_swap_colours, coloured=True)
_BOTH = Kind(_swap_roles_of_coloured, coloured=True, relations=_SWAPPABLE)
WINOGROUND = (_ROLES, _COLOURS, _ROLES, _COLOURS, _BOTH)
VG_RELATION = Kind(_name_roles, relations=_SCORED)
VG_ATTRIBUTION = Kind(_name_colours, coloured=True)
SUGARCREPE = {
    "add_att": Kind(functools.partial(_wrong_attribute, named=False), coloured=True),
    "add_obj": Kind(_add_object),
    "replace_att": Kind(functools.partial(_wrong_attribute, named=True), coloured=True),
    "replace_obj": Kind(_replace_object),
    "replace_rel": Kind(_replace_relation),
    "swap_att": Kind(functools.partial(_swap_colours, images=1), coloured=True),
    "swap_obj": Kind(_name_roles, relations=_SWAPPABLE),
}
_say_again = functools.partial(_say, sentence="the photo shows {subject} {phrase} {object}", phrases=_SYNONYMS)


def _false_as_shown(relations: tuple[str, ...]) -> Kind:
    """Without ``at``, which could be said of most images: it would be true where it is said."""
    fair = tuple(relation for relation in relations if relation != "at")
    return Kind(functools.partial(_replace_relation, as_shown=fair), relations=fair)


def _in_two_wordings(kind: Kind, say: Callable[[tuple[Triplet, ...]], str]) -> Kind:
    return dataclasses.replace(kind, make=functools.partial(_reworded, make=kind.make, say=say))


SUGARCREPE_PP = {
    name: _in_two_wordings(kind, _say_again)
    for name, kind in (SUGARCREPE | {"replace_rel": _false_as_shown(tuple(PHRASES))}).items()
    if not name.startswith("add")
}
_NAMED_TWICE = tuple(relation for relation in PHRASES if PHRASES[relation] != _SYNONYMS[relation])
HARD_POSITIVES = {
    "attributes": _in_two_wordings(SUGARCREPE["replace_att"], functools.partial(_say, coloured=_RELATIVE)),
    "relations": _in_two_wordings(_false_as_shown(_NAMED_TWICE), functools.partial(_say, phrases=_SYNONYMS)),
    "swap": _in_two_wordings(VG_ATTRIBUTION, lambda claims: _enumerate(claims[::-1])),
}
BLA = {
    "active_passive": Kind(_voices, relations=tuple(_PARTICIPLES)),
    "coordination": Kind(_half_truths, coloured=True, relations=_SWAPPABLE),
    "relative_clause": Kind(_relative_clauses, coloured=True, relations=_SWAPPABLE),
}
NEGATION = tuple(Kind(functools.partial(_negation, true=true)) for true in ("positive", "negative", "hybrid"))
DESCRIBED = Kind(_describe), Kind(_describe, coloured=True)


def make_items(config: ScenesConfig, name: str, kinds: tuple[Kind, ...], seed: int, count: int) -> Iterator[Item]:
    """``count`` items of the file ``name``, cycling through ``kinds``; a pure function of its arguments."""
    scored = min(max(count // _VGA_PAIR, 1), len(_COLOUR_PAIRS))  # with enough cases each, for VG-Attribution
    for i in range(count):
        stream = seed, _STREAM, zlib.crc32(name.encode()), i
        kind, unseen = kinds[i % len(kinds)], bool(np.random.default_rng(stream).integers(2))
        pairs = _COLOUR_PAIRS if kind is not VG_ATTRIBUTION else (_COLOUR_PAIRS[i % scored],)
        options = _options(config, unseen, kind.relations, pairs if kind.coloured else None)
        triplet, colours = options[np.random.default_rng((*stream, 1)).integers(len(options))]
        yield kind.make(_Case(config, triplet, colours, unseen, (*stream, 2)))


def apart(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each an image and a statement, without those whose statement is true of an earlier one's image, or the
    other way round."""
    kept: list[Item] = []
    for item in items:
        pairs = (pair for other in kept for pair in ((item, other), (other, item)))
        if not any(said.statements[0].is_true(shown.scenes[0]) for said, shown in pairs):
            kept.append(item)
            yield item


def of_different_classes(items: Iterator[Item]) -> Iterator[Item]:
    """The first items with each two classes, without those that are not ``apart``."""
    first: dict[frozenset[str], Item] = {}
    for item in items:
        first.setdefault(frozenset(thing.label for thing in item.scenes[0].things[:2]), item)
    return apart(iter(first.values()))


_COLOUR_PAIRS = tuple(itertools.permutations(COLOURS, 2))


@functools.cache
def _options(
    config: ScenesConfig, unseen: bool, relations: tuple[str, ...], pairs: tuple[tuple[str, str], ...] | None
) -> tuple[tuple[Triplet, tuple[str, str]], ...]:
    """(triplet, colours): given colour ``pairs``, only those that training shows on both classes.

    Raises UserError if there are none.
    """
    worlds = config.compositions()
    triplets = [triplet for triplet in worlds[unseen].pairs if triplet.relation in relations]
    if pairs is None:
        return tuple((triplet, ("", "")) for triplet in triplets)
    seen = worlds[0].attributes
    options = tuple(
        (triplet, pair)
        for triplet in triplets
        for pair in pairs
        if all(Triplet(label, "is", c) in seen for label in (triplet.subject, triplet.object) for c in pair)
    )
    if not options:
        raise UserError(
            f"config {config.name!r}: no {'held-out' if unseen else 'seen'} pair of classes has the colours "
            f"{pairs}; raise pairs_per_family ({config.pairs_per_family}) or lower held_out ({config.held_out})"
        )
    return options
