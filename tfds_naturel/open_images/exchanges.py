"""Bindings and positions in photos: facts of a photo and the same facts exchanged, which are false of it.

As we understand their paper (Kuznetsova et al., arXiv 1811.00982), Open Images' annotators verified the candidates of
every listed triplet wherever the boxes of its two classes touch, and of every listed attribute of a class for each of
its boxes. So such a candidate that is not annotated counts as false.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from tfds_naturel.captions import lexicon
from tfds_naturel.captions.exchanges import BESIDE, CONVERSE, LEFT, RIGHT
from tfds_naturel.captions.relations import RELATIONS, excluded
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import EXCHANGED_KINDS, Exchange, Facts, Triplet, name_of
from tfds_naturel.hard_images.mining import may_hold
from tfds_naturel.open_images import splits
from tfds_naturel.open_images.annotations import AnnotatedImage, Box

FROM_MIDDLE = 0.05  # centres of boxes on the left and on the right are at least so far from the middle, as a share
FLOOR = 0.1  # boxes of things that stand beside each other end at heights that are less apart, as a share
OVERLAP = 0.3  # at most this share of the smaller box is in the larger one
MOST_FACTS = 100  # of an image, about classes with one box: any two are compared; official images have a few

# Classes that may name one object, or whose words are used for each other; some are in the box file only.
_ALIKE = (
    {"Man", "Boy", "Person"},
    {"Woman", "Girl", "Person"},
    {"Table", "Desk", "Coffee table", "Kitchen & dining room table", "Billiard table"},
    {"Chair", "Bench", "Couch", "Sofa bed", "Stool", "Loveseat", "Studio couch", "Wheelchair"},
    {"Bed", "Sofa bed", "Studio couch", "Infant bed"},
    {"Mug", "Coffee cup", "Coffee"},
    {"Beer", "Bottle", "Wine glass", "Drink", "Wine", "Cocktail"},
    {"Football", "Rugby ball", "Tennis ball", "Ball"},
    {"Racket", "Tennis racket", "Table tennis racket"},
    {"Backpack", "Handbag", "Briefcase", "Suitcase", "Luggage and bags"},
    {"Oven", "Microwave oven"},
    {"Car", "Taxi", "Van", "Limousine"},
    {"Ski", "Snowboard", "Skateboard"},
    {"Piano", "Musical keyboard"},
    {"Mobile phone", "Telephone"},
    {"Knife", "Kitchen knife"},
)
_BEINGS = {"Man", "Woman", "Boy", "Girl", "Person", "Cat", "Dog", "Horse", "Elephant", "Monkey"}

Keeps = Callable[[Triplet], bool]


@dataclasses.dataclass(frozen=True)
class Listed:
    """The triplets of a release."""

    triplets: frozenset[Triplet]

    @functools.cached_property
    def by_subject(self) -> Mapping[str, list[Triplet]]:
        """The triplets of each subject."""
        found = collections.defaultdict(list)
        for triplet in sorted(self.triplets):
            found[triplet.subject].append(triplet)
        return found


def positions(image: AnnotatedImage) -> Iterator[Exchange]:
    """At which side of a table something is that is annotated to be at it; and of two people or animals, and of what
    is annotated as left or right of each other, which is on the left of the image and which on the right."""
    boxes = dict(sorted(_single(image).items()))
    for fact in sorted(image.triplets):
        at = fact.relation == "at" and {fact.subject, fact.object} <= boxes.keys()
        if at and (side := side_at(boxes[fact.subject], boxes[fact.object])):
            yield _position(fact.subject, side, fact.object, fact)
    beside = {frozenset((fact.subject, fact.object)) for fact in image.triplets if fact.relation in CONVERSE}
    pairs = {*itertools.combinations(sorted(_BEINGS & boxes.keys()), 2)}
    pairs |= {(min(pair), max(pair)) for pair in beside if len(pair) == 2 and pair <= boxes.keys()}
    for x, y in sorted(pairs):
        if side := side_of(boxes[x], boxes[y]):
            yield _position(x, side, y)


def _position(x: str, side: str, y: str, *also: Triplet) -> Exchange:
    true, false = ((*also, Triplet(x, of, y)) for of in (side, CONVERSE[side]))
    return Exchange("position", true, false)


def side_at(a: Box, b: Box) -> str | None:
    """Whether the centre of ``a`` is in the left or the right quarter of ``b``, or beyond; None if it is between."""
    share = (_centre(a) - b.xmin) / (b.xmax - b.xmin)
    return None if 0.25 < share < 0.75 else LEFT if share < 0.5 else RIGHT


def side_of(a: Box, b: Box) -> str | None:
    """Whether ``a`` is on the left of the image and ``b`` on the right, or the other way round; None if the boxes
    overlap by more than ``OVERLAP`` or a centre is closer than ``FROM_MIDDLE`` to the middle."""
    if _intersection(a, b) > OVERLAP * min(a.area, b.area):
        return None
    first, last = (_centre(box) - 0.5 for box in (a, b))
    if min(abs(first), abs(last)) < FROM_MIDDLE or (first < 0) == (last < 0):
        return None
    return LEFT if first < 0 else RIGHT


def _centre(box: Box) -> float:
    """On the way from left to right."""
    return (box.xmin + box.xmax) / 2


def bindings(image: AnnotatedImage, listed: Listed, keeps: Keeps) -> Iterator[Exchange]:
    """Two facts of ``image`` that ``keeps`` accepts, and two claims of which at least one is false.

    Either what is said of the two subjects changes places, or one of them gets what is said of the other; a photo of
    such a result is paired with the claim that it results from. All classes have one box in the photo. Where a relation
    joins two things with attributes, both claims have it, too. Raises UserError for an image with too many facts.
    """
    boxes = _single(image)
    clear = [fact for fact in sorted(image.triplets) if keeps(fact) and _is_clear(fact, boxes)]
    if len(clear) > MOST_FACTS:
        raise UserError(
            f"image {image.image_id}: {len(clear):,} different facts about things with one box; expected at most "
            f"{MOST_FACTS}; remove some of its rows from the relationships"
        )
    is_false = functools.cache(functools.partial(_is_false, image=image, boxes=boxes, listed=listed))
    for pair in itertools.combinations(clear, 2):
        if not _may_be_bound(*pair):
            continue
        joined = _joined(*pair, clear, boxes)
        for claim in sorted({claim for claim in _claims(*pair, listed) if claim != pair and _may_be_bound(*claim)}):
            if all(fact in pair or is_false(fact) for fact in claim):
                yield Exchange("binding", tuple(sorted((*pair, *joined))), tuple(sorted((*claim, *joined))))


def _claims(one: Triplet, two: Triplet, listed: Listed) -> Iterator[Facts]:
    """Claims about the same two subjects."""
    one_as_two, two_as_one = Triplet(one.subject, *two[1:]), Triplet(two.subject, *one[1:])
    yield one_as_two, two_as_one
    yield one_as_two, two
    yield one, two_as_one
    if one == one_as_two:  # this may be what the exchange of one side leaves of a photo
        yield from ((other, two) for other in listed.by_subject[one.subject])
        yield from ((one, other) for other in listed.by_subject[two.subject])


def _joined(one: Triplet, two: Triplet, clear: list[Triplet], boxes: Mapping[str, Box]) -> Facts:
    """What joins the things of two attributes: the first of the ``clear`` relations, or else that they stand beside
    each other; nothing if neither does, nor two people or relations."""
    if one.relation != "is" or lexicon.pose(one.object):
        return ()
    things = {one.subject, two.subject}
    if annotated := [fact for fact in clear if {fact.subject, fact.object} == things]:
        return (annotated[0],)
    a, b = boxes[one.subject], boxes[two.subject]
    beside = _intersection(a, b) > 0 and abs(a.ymax - b.ymax) < FLOOR
    return (Triplet(one.subject, BESIDE, two.subject),) if beside else ()


def _is_clear(fact: Triplet, boxes: Mapping[str, Box]) -> bool:
    """Whether it can only be about one object of each class, and has neither a symmetric nor an unknown relation."""
    if fact.relation == "is":
        return fact.subject in boxes
    known = RELATIONS.get(fact.relation)
    return known is not None and not known.symmetric and fact.subject in boxes and fact.object in boxes


def _may_be_bound(one: Triplet, two: Triplet) -> bool:
    """Whether the facts are about different subjects and of one sort, two materials, two poses or two relations, and
    somebody would write them together: not that two wear or play one thing, nor of a chair at a desk and a woman."""
    if one.subject == two.subject or (one.relation == "is") != (two.relation == "is"):
        return False
    if one.relation == "is":
        return bool(lexicon.pose(one.object)) == bool(lexicon.pose(two.object))
    subjects = {one.subject, two.subject}
    if (
        "Chair" in subjects
        or "Ski" in (one.object, two.object)
        or (one[1:] == two[1:] and one.relation in ("wears", "plays"))
    ):
        return False
    return subjects.isdisjoint((one.object, two.object))


def _is_false(fact: Triplet, image: AnnotatedImage, boxes: Mapping[str, Box], listed: Listed) -> bool:
    """Whether ``fact`` could have been annotated and was not, nor anything that may imply it. An attribute must also
    contradict an annotated one of the same object."""
    if fact not in listed.triplets or not _is_clear(fact, boxes) or may_hold(fact, image.triplets):
        return False
    if fact.relation == "is":
        return any(excluded(annotated, fact) for annotated in image.triplets)
    return _intersection(boxes[fact.subject], boxes[fact.object]) > 0


def balanced(candidates: Iterable[tuple[str, Exchange]], seed: int) -> dict[str, list[Exchange]]:
    """Image id -> those of the (image id, exchange) ``candidates`` that are kept, so that of any two claims each is as
    often the true one. Which of the surplus is dropped depends on ``seed`` and the ids alone."""
    by_claims: dict[Collection[Facts], dict[Exchange, set[str]]] = {}
    for image_id, exchange in candidates:
        key = tuple(sorted((exchange.true, exchange.false)))
        by_claims.setdefault(key, {}).setdefault(exchange, set()).add(image_id)
    kept = collections.defaultdict(list)
    for sides in by_claims.values():
        most = min(map(len, sides.values())) if len(sides) == 2 else 0
        for exchange, image_ids in sides.items():
            for image_id in sorted(image_ids, key=lambda name: (splits.uniform(seed, name), name))[:most]:
                kept[image_id].append(exchange)
    return {image_id: sorted(exchanges) for image_id, exchanges in sorted(kept.items())}


def count(of_images: Mapping[str, Collection[Exchange]]) -> dict[str, dict[str, int]]:
    """For each kind, the number of images whose captions claim these facts and are true."""
    counts = collections.Counter((exchange.kind, exchange.true) for found in of_images.values() for exchange in found)
    return {
        kind: {name_of(true): counts[of, true] for of, true in sorted(counts) if of == kind} for kind in EXCHANGED_KINDS
    }


def _single(image: AnnotatedImage) -> dict[str, Box]:
    """Class -> its box, for classes with one box, if the photo has no box of a class that is alike, related or not.
    Where there are boxes of the box file, the class must be ``clear`` by them."""
    counts = collections.Counter(label for label, _ in image.objects)
    present = counts.keys() | image.clear.keys()
    unclear = {label for alike in _ALIKE if len(alike & present) > 1 for label in alike}
    unclear |= {label for label in counts if counts[label] > 1 or not image.clear.get(label, not image.clear)}
    return {label: box for label, box in image.objects if label not in unclear}


def _intersection(a: Box, b: Box) -> float:
    width, height = min(a.xmax, b.xmax) - max(a.xmin, b.xmin), min(a.ymax, b.ymax) - max(a.ymin, b.ymin)
    return max(width, 0.0) * max(height, 0.0)
