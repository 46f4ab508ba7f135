"""Draws scenes: scene graph, truth and pixels, a pure function of (config, split, index)."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfds_naturel.captions.relations import CONTRARIES, converse
from tfds_naturel.common.schema import Facts, Triplet
from tfds_naturel.scenes.backdrop import backdrop
from tfds_naturel.scenes.figures import Figure, Look, make_look, place
from tfds_naturel.scenes.layouts import LAYOUTS, Layer, figure_layer
from tfds_naturel.scenes.render import render
from tfds_naturel.scenes.sprites import SPRITES
from tfds_naturel.scenes.world import (
    ARGUABLE,
    Compositions,
    attribute_arguable,
    attributes_of,
    compositions,
    things_exchanged,
)

VERSION = "3.1.0"  # of the worlds: their held-out triplets, captions and twins
SPLITS = ("train", "validation", "test", "test_unseen_triplets")
_HALF = 0.48  # share of the image's width for each of two facts
_AGENTS = 0xA6E7  # differs from other streams of the seed
_MIN_DISTANCE = 0.08  # of centres, for one object to be left or right of another


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """A difficulty level of the world.

    Images are ``size`` x ``size`` pixels, with ``sizes`` images per split in the order of SPLITS. Every family of
    relations is drawn with ``pairs_per_family`` pairs of ``classes``, a share ``held_out`` of them only in the last
    split. The main pair fills a share ``zoom`` (min, max) of the image, next to ``distractors`` (min, max) objects of
    other classes and ``clutter`` (min, max) decorations; in a share ``attribute_share`` of the images, one of the pair
    is painted. A triplet has ``variants`` sets of captions. With ``exchanges``, both of the pair are painted where they
    can be, the colours change places from one scene of a triplet to the next, and images have captions of bindings and
    positions. With ``agents`` besides, nothing is painted for an exchange: every other image shows two beings that act
    on a thing each, which change places from one such image to the next. These have no captions of single triplets,
    which would be true more often than those of their rivals. Raises ValueError for a class without a drawing, if the
    last split has images but no composition is held out, and if ``agents`` have nothing to exchange or the training
    images are not a multiple of 4.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    sizes: tuple[int, int, int, int]
    pairs_per_family: int
    distractors: tuple[int, int]
    clutter: tuple[int, int]
    zoom: tuple[float, float]
    seed: int = 0
    held_out: float = 0.2
    attribute_share: float = 0.5
    variants: int = 4
    exchanges: bool = False
    agents: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.classes) - SPRITES.keys():
            raise ValueError(f"scenes config {self.name!r}: classes {sorted(unknown)} have no drawing in {[*SPRITES]}")
        if self.sizes[-1] and not self.compositions()[1].pairs:
            raise ValueError(
                f"scenes config {self.name!r}: sizes has {self.sizes[-1]} images in {SPLITS[-1]}, but held_out = "
                f"{self.held_out} of pairs_per_family = {self.pairs_per_family} holds out nothing; raise one of the two"
            )
        if self.agents and self.sizes[0] % 4:
            raise ValueError(
                f"scenes config {self.name!r}: sizes has {self.sizes[0]} images in {SPLITS[0]}; expected a multiple of "
                "4: with agents, two of four show the opposite of each other, and one alone would have no captions"
            )
        shown = self.compositions()[: 2 if self.sizes[-1] else 1]
        if self.agents and not all(world.agents for world in shown):
            raise ValueError(
                f"scenes config {self.name!r}: no two agents can exchange their things with pairs_per_family = "
                f"{self.pairs_per_family} and held_out = {self.held_out}; raise one of the two"
            )

    def options(self) -> dict[str, Any]:
        """All fields, as a dataset stores them; without ``exchanges`` and ``agents`` as before there were any."""
        fields = dataclasses.asdict(self).items()
        return {name: value for name, value in fields if value or name not in ("exchanges", "agents")}

    def compositions(self) -> tuple[Compositions, Compositions]:
        """(seen, unseen): the compositions of the first three splits, and those of the last."""
        return compositions(self.classes, self.seed, self.pairs_per_family, self.held_out)


_SIXTEEN = (
    *("Man", "Woman", "Dog", "Cat", "Horse", "Elephant", "Table", "Chair", "Bottle", "Mug", "Football", "Guitar"),
    *("Drum", "Car", "Backpack", "Suitcase"),
)
_SCENES = ScenesConfig(
    name="scenes",
    classes=_SIXTEEN,
    size=64,
    sizes=(12_000, 500, 1_000, 500),
    pairs_per_family=40,
    distractors=(0, 0),
    clutter=(0, 2),
    zoom=(0.92, 1.0),
)
CONFIGS = {
    config.name: config
    for config in (
        _SCENES,
        dataclasses.replace(_SCENES, name="scenes_bindings", exchanges=True),
        dataclasses.replace(
            _SCENES,
            name="scenes_agents",
            sizes=(12_000, 500, 2_000, 1_000),
            pairs_per_family=80,  # with fewer, held-out triplets have next to nothing to exchange
            held_out=0.35,
            exchanges=True,
            agents=True,
        ),
        ScenesConfig(
            name="scenes_hard",
            classes=tuple(SPRITES),
            size=224,
            sizes=(100_000, 2_000, 4_000, 2_000),
            pairs_per_family=64,
            distractors=(1, 3),
            clutter=(2, 5),
            zoom=(0.5, 0.85),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Thing:
    """A scene graph node: ``box`` is xmin, ymin, xmax, ymax in [0, 1]; ``attribute`` is None for natural colours."""

    label: str
    attribute: str | None
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """``things[0]`` and ``things[1]`` are subject and object of the first of ``facts``, the next two those of the
    second, if any, and the rest distractors of other classes; ``rendered()`` takes longer than everything else."""

    facts: Facts
    things: tuple[Thing, ...]
    rendered: Callable[[], np.ndarray]

    @functools.cached_property
    def image(self) -> np.ndarray:
        """The pixels, uint8 [size, size, 3] RGB."""
        return self.rendered()

    @property
    def triplet(self) -> Triplet:
        """The first fact, and the only one without a second agent."""
        return self.facts[0]

    @property
    def attributes(self) -> tuple[tuple[int, Triplet], ...]:
        """The painted things, as (index in ``things``, triplet)."""
        return tuple((i, Triplet(t.label, "is", t.attribute)) for i, t in enumerate(self.things) if t.attribute)

    def is_true(self, claim: Triplet) -> bool:
        """Whether a viewer could say that ``claim`` is true of the image; if not, it is certainly false."""
        if claim.relation == "is":
            named = (thing for thing in self.things if thing.label == claim.subject)
            return any(attribute_arguable(thing.label, thing.attribute, claim.object) for thing in named)
        rows = {thing.label: i for i, thing in enumerate(self.things)}
        if not {claim.subject, claim.object} <= rows.keys():
            return False
        same = filter(None, (claim, converse(claim)))
        return any(self._between(rows[fact.subject], fact.relation, rows[fact.object]) for fact in same)

    def _between(self, i: int, relation: str, j: int) -> bool:
        if relation in ("left_of", "right_of"):
            here, there = ((self.things[k].box[0] + self.things[k].box[2]) / 2 for k in (i, j))
            ahead = there - here
            return (ahead if relation == "left_of" else -ahead) > _MIN_DISTANCE
        fact = i // 2
        if fact != j // 2 or fact >= len(self.facts):
            return relation in ("on", "under", "at")
        return relation in ARGUABLE[self.facts[fact].relation][i % 2]


def draw(config: ScenesConfig, split: str, index: int) -> Scene:
    """Scene ``index`` of ``split``, which is one of SPLITS."""
    number = SPLITS.index(split)
    shown = config.compositions()[split == SPLITS[-1]]
    if config.agents:
        index, with_agents = divmod(index, 2)
        if with_agents:
            return _draw_agents(shown.agents, config, number, index)
    cycle, position = divmod(index, len(shown.pairs))
    pair = _order(config.seed, number, cycle, len(shown.pairs))[position]
    triplet = shown.pairs[pair]
    rng = np.random.default_rng([config.seed, number, index])
    painted = None
    if config.exchanges and not config.agents:
        of_both_turns = np.random.default_rng([config.seed, number, cycle // 2, pair])
        painted = _contrary_attributes(triplet, shown, cycle % 2, of_both_turns)
    return compose(triplet, painted or _paint(triplet, shown, config, rng), config, rng)


def _draw_agents(shown: tuple[Facts, ...], config: ScenesConfig, split: int, index: int) -> Scene:
    """Scene ``index`` of those with two agents: the same two in two scenes, and then others."""
    drawn, turn = divmod(index, 2)
    cycle, position = divmod(drawn, len(shown))
    facts = shown[_order(config.seed, split, cycle, len(shown))[position]]
    one, two = things_exchanged(facts) if turn else facts
    rng = np.random.default_rng([config.seed, split, index, _AGENTS])
    return compose(one, (None, None), config, rng, beside=two)


@functools.lru_cache(maxsize=8)
def _order(seed: int, split: int, cycle: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, split, cycle, 0x0DE5]).permutation(count)


def _paint(
    triplet: Triplet, shown: Compositions, config: ScenesConfig, rng: np.random.Generator
) -> tuple[str | None, str | None]:
    """Attributes of subject and object; in ``config.attribute_share`` of the images, one of the two is painted."""
    painted: list[str | None] = [None, None]
    which = int(rng.integers(2))
    label = (triplet.subject, triplet.object)[which]
    choices = [name for name in attributes_of(label) if Triplet(label, "is", name) in shown.attributes]
    if choices and rng.random() < config.attribute_share:
        painted[which] = choices[rng.integers(len(choices))]
    return painted[0], painted[1]


def _contrary_attributes(
    triplet: Triplet, shown: Compositions, turn: int, rng: np.random.Generator
) -> tuple[str, str] | None:
    """Contrary attributes of subject and object that each of them can have, which change places with ``turn``; None if
    there are none."""
    own = [{t.object for t in shown.attributes if t.subject == label} for label in (triplet.subject, triplet.object)]
    both = sorted(set.intersection(*own))
    contrary = [pair for pair in itertools.combinations(both, 2) if pair[1] in CONTRARIES[pair[0]]]
    if not contrary:
        return None
    a, b = contrary[rng.integers(len(contrary))]
    return (a, b) if int(rng.integers(2)) == turn else (b, a)


def compose(
    triplet: Triplet,
    painted: tuple[str | None, str | None],
    config: ScenesConfig,
    rng: np.random.Generator,
    beside: Triplet | None = None,
) -> Scene:
    """Draws a triplet of two classes, with subject and object in the colours or materials ``painted``. With a triplet
    of two other classes ``beside`` it, in natural colours, each has a half of the image."""
    behind = backdrop(rng, int(rng.integers(config.clutter[0], config.clutter[1] + 1)))
    facts = (triplet, beside) if beside else (triplet,)
    width, lefts = (_HALF, rng.permutation([0, 1 - _HALF])) if beside else (1, [0])
    looks: list[Look] = []
    boxes: list[np.ndarray] = []
    layers: list[Layer] = []
    for fact, attributes, left in zip(facts, (painted, (None, None)), lefts, strict=False):
        subject, obj = make_look(fact.subject, attributes[0], rng), make_look(fact.object, attributes[1], rng)
        layout = LAYOUTS[fact.relation](subject, obj, rng)
        zoom = rng.uniform(*config.zoom) * width
        x, y = rng.uniform(0, (width - zoom, 1 - zoom))
        shift = left + x, y
        looks += subject, obj
        boxes += [figure.box * zoom + np.tile(shift, 2) for figure in (layout.subject, layout.object)]
        layers += [dataclasses.replace(layer, scale=zoom, shift=shift) for layer in layout.layers]
    extra = tuple(_distractors([look.label for look in looks], boxes, config, rng))
    looks += [figure.look for figure in extra]
    boxes += [figure.box for figure in extra]
    things = tuple(
        Thing(look.label, look.attribute, tuple(np.clip(box, 0, 1).tolist()))
        for look, box in zip(looks, boxes, strict=True)
    )
    in_front = (*map(figure_layer, extra), *layers)
    return Scene(facts, things, functools.partial(render, behind, in_front, config.size))


def portrait(label: str, config: ScenesConfig, rng: np.random.Generator) -> np.ndarray:
    """An image of a single thing in natural colours, uint8 [size, size, 3] RGB."""
    behind = backdrop(rng, int(rng.integers(config.clutter[0], config.clutter[1] + 1)))
    spot, space = (0.5 + rng.uniform(-0.1, 0.1), 0.95 - rng.uniform(0, 0.08)), rng.uniform(0.5, 0.85, 2)
    figure = place(make_look(label, None, rng), rng, spot, tuple(space), 1 if rng.random() < 0.5 else -1, stretch=1.4)
    return render(behind, (figure_layer(figure),), config.size)


def _distractors(
    drawn: Sequence[str], boxes: list[np.ndarray], config: ScenesConfig, rng: np.random.Generator
) -> Iterator[Figure]:
    """Small figures of other classes that do not overlap any figure placed so far."""
    count = int(rng.integers(config.distractors[0], config.distractors[1] + 1))
    taken = list(boxes)
    others = [label for label in config.classes if label not in drawn]
    for pick in rng.permutation(len(others))[:count]:
        look = make_look(others[pick], None, rng)
        for _ in range(6):
            spot, side = (rng.uniform(0.12, 0.88), rng.uniform(0.25, 0.98)), rng.uniform(0.14, 0.26)
            figure = place(look, rng, spot, (side, side), 1 if rng.random() < 0.5 else -1)
            if not any(
                (np.maximum(figure.box[:2], box[:2]) < np.minimum(figure.box[2:], box[2:])).all() for box in taken
            ):
                taken.append(figure.box)
                yield figure
                break
