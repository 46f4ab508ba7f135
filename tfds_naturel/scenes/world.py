"""Compositions: which exist, which are held out of training, and what is true of an image that shows one.

A composition is a triplet of two classes in a relation, or of a class and a colour or material. Roles are swapped half
of the time: whenever (A, r, B) is drawn, so is (B, r, A), so that only word order tells them apart.
"""

import dataclasses
import functools
import itertools
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfds_naturel.captions.mirrored import Rival, needs_rivals
from tfds_naturel.captions.relations import CONTRARIES, converse, excluded
from tfds_naturel.common.schema import Facts, Triplet
from tfds_naturel.scenes.beings import BEINGS, PEOPLE
from tfds_naturel.scenes.sprite import COLOURS, MATERIALS
from tfds_naturel.scenes.sprites import SPRITES

_ALL = frozenset(SPRITES)
_INSTRUMENTS = {"Guitar", "Drum", "Violin", "Piano"}
_WORN = {"Backpack", "Suitcase", "Handbag", "Drum", "Guitar"}
_PLACES = {"Table", "Chair", "Car", "Drum", "Piano", "Bed"}
_ACTS = {"holds", "wears", "plays", "hits"}
_CONTAINERS = {label for label, sprite in SPRITES.items() if sprite.window}


@dataclasses.dataclass(frozen=True)
class Family:
    """A relation and its converse, if any, and the pairs of classes they are drawn with."""

    relations: tuple[str, ...]
    either: frozenset[str] = _ALL  # at least one of the two classes is among these
    both: frozenset[str] = _ALL  # both classes are among these


FAMILIES = (
    Family(("on", "under")),
    Family(("left_of", "right_of")),
    Family(("inside_of",), both=frozenset(_CONTAINERS)),
    Family(("holds",), either=frozenset(BEINGS)),
    Family(("wears",), either=frozenset(_WORN)),
    Family(("plays",), either=frozenset(_INSTRUMENTS)),
    Family(("hits",), either=frozenset(set(BEINGS) | {"Football"})),
    Family(("interacts_with",), either=frozenset(BEINGS)),
    Family(("at",), either=frozenset(_PLACES)),
)

_SIDES = {"left_of", "right_of"}
# What else a viewer could say of an image of (A, relation, B): about (A, B), and about (B, A). A negative caption must
# not claim any of these. Left and right are decided by the boxes.
ARGUABLE: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    relation: (frozenset(forward) | {relation}, frozenset(backward))
    for relation, forward, backward in (
        ("on", {"at", "interacts_with"}, {"under", "holds", "wears", "interacts_with"}),
        ("under", {"holds", "wears", "interacts_with"}, {"on", "at", "interacts_with"}),
        ("left_of", {"at"}, {"right_of", "at"}),
        ("right_of", {"at"}, {"left_of", "at"}),
        ("inside_of", {"at", "interacts_with"}, {"holds", "wears", "interacts_with"}),
        ("holds", {"at", "interacts_with"} | _SIDES, {"at", "on", "interacts_with"} | _SIDES),
        ("wears", {"at", "holds", "interacts_with"} | _SIDES, {"at", "on", "interacts_with"} | _SIDES),
        ("plays", {"at", "holds", "wears", "interacts_with"} | _SIDES, {"at", "on", "interacts_with"} | _SIDES),
        ("hits", {"at", "interacts_with"} | _SIDES, {"at", "interacts_with"} | _SIDES),
        ("interacts_with", {"at", "holds"} | _SIDES, {"at", "holds", "interacts_with"} | _SIDES),
        ("at", {"interacts_with"} | _SIDES, {"interacts_with"} | _SIDES),
    )
}


def arguable(shown: Triplet, claim: Triplet) -> bool:
    """Whether a viewer could say that an image drawn to show ``shown`` also shows ``claim``."""
    if "is" in (shown.relation, claim.relation):
        settled = shown.relation == claim.relation and shown.subject == claim.subject
        return attribute_arguable(claim.subject, shown.object if settled else None, claim.object)
    pair = (shown.subject, shown.object)
    for subject, relation, obj in filter(None, (claim, converse(claim))):
        for ordered, labels in zip((pair, pair[::-1]), ARGUABLE[shown.relation], strict=True):
            if (subject, obj) == ordered and relation in labels:
                return True
    return False


@functools.cache
def rivals(shown: frozenset[Triplet]) -> dict[Triplet, tuple[Rival, ...]]:
    """The rivals of each relation in ``shown``, for ``mirrored.write``: others of the same classes, one of which rules
    out the other.

    Triplets that need rivals divide all their pairs among rivals that do not; the others give at most half of the rest.
    """
    by_classes: dict[frozenset[str], list[Triplet]] = {}
    for triplet in sorted(t for t in shown if t.relation != "is"):
        by_classes.setdefault(frozenset((triplet.subject, triplet.object)), []).append(triplet)
    edges = {t: [other for other in group if _are_rivals(t, other)] for group in by_classes.values() for t in group}
    taken = {t: sum(1 / len(edges[other]) for other in others if needs_rivals(other)) for t, others in edges.items()}

    def share(triplet: Triplet, other: Triplet) -> float:
        for needs in (triplet, other):
            if needs_rivals(needs):
                return 1 / len(edges[needs])
        return min((1 - taken[t]) / 2 / sum(not needs_rivals(o) for o in edges[t]) for t in (triplet, other))

    return {
        t: tuple(Rival(o, share(t, o), weak=arguable(t, o), strong=arguable(o, t)) for o in others)
        for t, others in edges.items()
    }


def _are_rivals(triplet: Triplet, other: Triplet) -> bool:
    pair, same = (triplet.subject, triplet.object), (triplet.relation, "is")
    swapped = (other.subject, other.object) == pair[::-1]
    if other.relation in same or not (swapped or (other.subject, other.object) == pair) or other == converse(triplet):
        return False
    return not (arguable(triplet, other) and arguable(other, triplet))


def attribute_arguable(label: str, attribute: str | None, claimed: str) -> bool:
    """Whether a ``label`` drawn in ``attribute`` (None: natural colours) could be called ``claimed``.

    An attribute that ``label`` never has also counts as arguable, since a negative that claims it would be recognizable
    from its text alone.
    """
    return attribute is None or claimed not in CONTRARIES[attribute] or claimed not in attributes_of(label)


def attributes_of(label: str) -> tuple[str, ...]:
    """The colours and materials that a class is drawn in: none for people, only colours for animals."""
    if label in PEOPLE:
        return ()
    return tuple(COLOURS) if label in BEINGS else (*COLOURS, *MATERIALS)


@dataclasses.dataclass(frozen=True)
class Compositions:
    """Triplets by kind: ``pairs`` of objects, and ``attributes``."""

    pairs: tuple[Triplet, ...]
    attributes: frozenset[Triplet]

    @functools.cached_property
    def triplets(self) -> frozenset[Triplet]:
        """Triplets of both kinds."""
        return self.attributes.union(self.pairs)

    @functools.cached_property
    def agents(self) -> tuple[Facts, ...]:
        """Facts about two beings that act on a thing each, of which ``things_exchanged`` makes facts that are among
        ``pairs``, too; one of the two arrangements."""
        acts = {t for t in self.pairs if t.relation in _ACTS and t.subject in BEINGS and t.object not in BEINGS}
        return tuple(
            (one, two)
            for one, two in itertools.combinations(sorted(acts), 2)
            if one.subject != two.subject and one.object != two.object and one[1:] < two[1:]
            if acts.issuperset(things_exchanged((one, two)))
        )


def things_exchanged(facts: Facts) -> Facts:
    """Two facts after what is said of the two subjects has changed places."""
    one, two = facts
    return Triplet(one.subject, *two[1:]), Triplet(two.subject, *one[1:])


@functools.cache
def compositions(
    classes: tuple[str, ...], seed: int, pairs_per_family: int, held_out: float
) -> tuple[Compositions, Compositions]:
    """(seen, unseen) triplets: a share ``held_out`` of a family's pairs, in both orders and all relations, is unseen.

    Every class, relation and attribute occurs in the seen triplets.
    """
    seen: list[Triplet] = []
    unseen: list[Triplet] = []
    shared: Counter[tuple[str, str]] = Counter()
    for family in FAMILIES:
        rng = np.random.default_rng([seed, zlib.crc32(family.relations[0].encode())])
        chosen = _choose(_fitting(family, classes, seen), pairs_per_family, shared, rng)
        shared.update(chosen)
        kept = len(chosen) - round(held_out * len(chosen))
        for triplets, pairs in ((seen, chosen[:kept]), (unseen, chosen[kept:])):
            triplets += [Triplet(a, r, b) for pair in pairs for r in family.relations for a, b in (pair, pair[::-1])]
    attributes = [Triplet(label, "is", attribute) for label in classes for attribute in attributes_of(label)]
    order = np.random.default_rng([seed, zlib.crc32(b"is")]).permutation(len(attributes))
    held_back = _spread([attributes[i] for i in order], round(held_out * len(attributes)))
    return Compositions(tuple(seen), frozenset(attributes) - held_back), Compositions(tuple(unseen), held_back)


def _fitting(family: Family, classes: tuple[str, ...], seen: Sequence[Triplet]) -> list[tuple[str, str]]:
    """The pairs of classes that ``family`` may be drawn with. If a relation needs rivals, ``seen`` has one of each."""
    pairs = [p for p in itertools.combinations(classes, 2) if family.both >= set(p) and family.either & set(p)]
    drawn = {(a, b): Triplet(a, family.relations[0], b) for a, b in pairs}
    return [pair for pair, t in drawn.items() if not needs_rivals(t) or any(_are_rivals(t, other) for other in seen)]


def _choose(
    fitting: Sequence[tuple[str, str]], count: int, shared: Counter[tuple[str, str]], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """``count`` pairs, each time one with the least used classes, and among those one shared by most families.

    Sharing pairs makes the relations of one family plausible negatives in another.
    """
    pool = [pair for _, pair in sorted(zip(rng.random(len(fitting)).tolist(), fitting, strict=True))]
    used: Counter[str] = Counter()
    chosen = []
    for _ in range(min(count, len(pool))):
        pair = min(pool, key=lambda pair: (used[pair[0]] + used[pair[1]], -shared[pair]))
        pool.remove(pair)
        used.update(pair)
        chosen.append(pair)
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _spread(triplets: list[Triplet], count: int) -> frozenset[Triplet]:
    """The first ``count`` triplets whose removal leaves every class and attribute in the rest, and leaves contraries of
    the attributes that the class still has.
    """
    left = Counter(itertools.chain.from_iterable((t.subject, t.object) for t in triplets))
    taken: set[Triplet] = set()
    for triplet in triplets:
        contrary = [other for other in triplets if other.subject == triplet.subject and excluded(triplet, other)]
        alone = len(set(contrary) - taken) == 1
        if len(taken) < count and left[triplet.subject] > 2 and left[triplet.object] > 2 and not alone:
            left.subtract((triplet.subject, triplet.object))
            taken.add(triplet)
    return frozenset(taken)
