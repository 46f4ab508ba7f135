"""Items of the benchmark twins: drawn images with a true statement and a false one that differs by one operation."""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator

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
_SWAPPABLE = tuple(relation for relation in PHRASES if not RELATIONS[relation].symmetric)
_SCORED = tuple(relation for relation in _SWAPPABLE if relation != "plays")  # ARO excludes "playing" from VG-Relation


@dataclasses.dataclass(frozen=True)
class Statement:
    """A caption, the triplets it claims, and any other classes it mentions."""

    text: str
    claims: tuple[Triplet, ...]
    mentions: tuple[str, ...] = ()

    def is_true(self, scene: Scene) -> bool:
        """Whether a viewer could say that the whole caption is true of the image."""
        return all(map(scene.is_true, self.claims)) and set(self.mentions) <= {thing.label for thing in scene.things}


@dataclasses.dataclass(frozen=True)
class Item:
    """One or two images and two statements; statement k is true of image k and of no other."""

    scenes: tuple[Scene, ...]
    statements: tuple[Statement, Statement]
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

    def item(self, statements: tuple[Statement, Statement], *scenes: Scene, tag: str = "") -> Item:
        return Item(scenes, statements, tag, self.unseen)


def _swapped(triplet: Triplet) -> Triplet:
    return Triplet(triplet.object, triplet.relation, triplet.subject)


def _relation(triplet: Triplet, *colours: str | None) -> Statement:
    """'the red cat is on the table', with the colours of subject and object, if any."""
    named = list(itertools.zip_longest((triplet.subject, triplet.object), colours))
    subject, obj = (_noun(label, colour) for label, colour in named)
    attributes = tuple(Triplet(label, "is", colour) for label, colour in named if colour)
    return Statement(f"{subject} is {PHRASES[triplet.relation]} {obj}", (triplet, *attributes))


def _noun(label: str, colour: str | None = None) -> str:
    return f"the {colour.lower()} {label.lower()}" if colour else f"the {label.lower()}"


def _both_coloured(triplet: Triplet, first: str, second: str) -> Statement:
    attributes = Triplet(triplet.subject, "is", first), Triplet(triplet.object, "is", second)
    return Statement(f"{_noun(triplet.subject, first)} and {_noun(triplet.object, second)}", attributes)


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


def _replace_relation(case: _Case) -> Item:
    t = case.triplet
    scene = case.scene(t)
    false = [r for r in PHRASES if not scene.is_true(Triplet(t.subject, r, t.object))]
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


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of items: how they are made, and which compositions they need."""

    make: Callable[[_Case], Item]
    coloured: bool = False
    relations: tuple[str, ...] = tuple(PHRASES)


_name_roles = functools.partial(_swap_roles, images=1)
_ROLES = _Kind(_swap_roles, relations=_SWAPPABLE)
_COLOURS = _Kind(_swap_colours, coloured=True)
_BOTH = _Kind(_swap_roles_of_coloured, coloured=True, relations=_SWAPPABLE)
WINOGROUND = (_ROLES, _COLOURS, _ROLES, _COLOURS, _BOTH)
VG_RELATION = _Kind(_name_roles, relations=_SCORED)
VG_ATTRIBUTION = _Kind(_name_colours, coloured=True)
SUGARCREPE = {
    "add_att": _Kind(functools.partial(_wrong_attribute, named=False), coloured=True),
    "add_obj": _Kind(_add_object),
    "replace_att": _Kind(functools.partial(_wrong_attribute, named=True), coloured=True),
    "replace_obj": _Kind(_replace_object),
    "replace_rel": _Kind(_replace_relation),
    "swap_att": _Kind(functools.partial(_swap_colours, images=1), coloured=True),
    "swap_obj": _Kind(_name_roles, relations=_SWAPPABLE),
}


def make_items(config: ScenesConfig, name: str, kinds: tuple[_Kind, ...], seed: int, count: int) -> Iterator[Item]:
    """``count`` items of the file ``name``, cycling through ``kinds``; a pure function of its arguments."""
    scored = min(max(count // _VGA_PAIR, 1), len(_COLOUR_PAIRS))  # with enough cases each, for VG-Attribution
    for i in range(count):
        stream = seed, _STREAM, zlib.crc32(name.encode()), i
        kind, unseen = kinds[i % len(kinds)], bool(np.random.default_rng(stream).integers(2))
        pairs = _COLOUR_PAIRS if kind is not VG_ATTRIBUTION else (_COLOUR_PAIRS[i % scored],)
        options = _options(config, unseen, kind.relations, pairs if kind.coloured else None)
        triplet, colours = options[np.random.default_rng((*stream, 1)).integers(len(options))]
        yield kind.make(_Case(config, triplet, colours, unseen, (*stream, 2)))


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
