"""Layout of each relation: the positions of subject and object, and extras such as arms, straps, notes and stars.

A layout function takes (subject, object, rng) and returns the two placed figures and the layers to paint, back to
front.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from tfds_naturel.scenes.figures import Figure, Look, moved, place
from tfds_naturel.scenes.sprite import SpritePart, blob, curve, line, oval, polygon
from tfds_naturel.scenes.sprites import SPRITES


@dataclasses.dataclass(frozen=True)
class Layer:
    """Parts painted together, scaled by ``scale`` and moved by ``shift``.

    With ``clip``, only the area covered by that figure is painted.
    """

    parts: tuple[SpritePart, ...]
    look: Look
    clip: Figure | None = None
    outlined: bool = True
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class SceneLayout:
    """The placed subject and object of a relation, and the layers to paint, back to front."""

    subject: Figure
    object: Figure
    layers: tuple[Layer, ...]


LayoutFn = Callable[[Look, Look, np.random.Generator], SceneLayout]
FLOOR = 0.95


def figure_layer(figure: Figure, acting: bool = False) -> Layer:
    """The figure itself. If it is ``acting``, its resting limbs are left out and things get eyes."""
    parts = tuple(part for part in figure.parts if not (acting and part.resting))
    return Layer(parts + (_eyes(figure) if acting and "face" in figure.anchors else ()), figure.look)


def _eyes(figure: Figure) -> tuple[SpritePart, ...]:
    x, y = figure.anchors["face"]
    radius = 0.034
    paints = (("white", radius), ("dark", radius * 0.5))
    return tuple(oval(paint, u, y, size, size) for paint, size in paints for u in (x - radius, x + radius))


def _arm(figure: Figure, hand: np.ndarray, drop: float = 0.04) -> tuple[SpritePart, ...]:
    """An arm from the shoulder to ``hand``, its elbow lowered by ``drop``."""
    paint = SPRITES[figure.look.label].arm
    start = figure.anchors["shoulder"]
    elbow = (start + hand) / 2 + (0, drop)
    return curve(paint, 0.05, *start, *elbow, *hand), oval(paint, hand[0], hand[1], 0.04, 0.04)


def _side(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _on(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    middle = 0.5 + rng.uniform(-0.04, 0.04)
    below = place(obj, rng, (middle, FLOOR + 0.01), (0.92, rng.uniform(0.44, 0.5)), _side(rng), stretch=1.25)
    stand = below.anchors["stand"]
    drift = np.clip(stand[0] - middle, -0.05, 0.05)
    above = place(subject, rng, (middle + drift, stand[1] + 0.015), (0.8, stand[1] - 0.03), _side(rng), stretch=1.25)
    return SceneLayout(above, below, (figure_layer(below), figure_layer(above)))


def _under(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    on = _on(obj, subject, rng)
    return SceneLayout(on.object, on.subject, on.layers)


def _beside(
    subject: Look, obj: Look, rng: np.random.Generator, side: int, facing: tuple[int, int] | None = None
) -> SceneLayout:
    """The subject is on ``side`` of the object (-1: left, 1: right). ``facing`` is random by default."""
    turns = facing or (_side(rng), _side(rng))
    figures = []
    for look, where, turn in ((subject, side, turns[0]), (obj, -side, turns[1])):
        spot = (0.5 + where * 0.25, FLOOR - rng.uniform(0, 0.08))
        figures.append(place(look, rng, spot, (rng.uniform(0.43, 0.48), 0.82), turn, stretch=1.4))
    return SceneLayout(figures[0], figures[1], tuple(map(figure_layer, figures)))


def _interacts_with(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The two stand face to face, hands joined, with a heart between them."""
    side = _side(rng)
    pair = _beside(subject, obj, rng, side, (-side, side))
    meeting = (pair.subject.anchors["shoulder"] + pair.object.anchors["shoulder"]) / 2
    meeting[0] = 0.5
    hands = _arm(pair.subject, meeting, 0.02), _arm(pair.object, meeting, 0.02)
    x, y, r = 0.5, max(0.14, meeting[1] - 0.24), 0.085
    heart = blob(
        "heart", x, y - r * 0.45, x + r * 0.6, y - r, x + r * 1.1, y - r * 0.35, x, y + r, x - r * 1.1, y - r * 0.35,
        x - r * 0.6, y - r,
    )  # fmt: skip
    layers = [figure_layer(pair.subject, acting=True), figure_layer(pair.object, acting=True)]
    layers += [Layer(parts, figure.look) for parts, figure in zip(hands, (pair.subject, pair.object), strict=True)]
    return SceneLayout(pair.subject, pair.object, (*layers, Layer((heart,), subject)))


def _inside_of(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The container fills the image and is cut open."""
    container = place(obj, rng, (0.5, FLOOR), (0.94, 0.88), _side(rng), stretch=1.5)
    (left, top), (right, bottom) = np.sort([container.anchors["window_low"], container.anchors["window_high"]], axis=0)
    cut = 0.05  # bevelled corners
    opening = polygon(
        "inner", left + cut, top, right - cut, top, right, top + cut, right, bottom - cut, right - cut, bottom,
        left + cut, bottom, left, bottom - cut, left, top + cut,
    )  # fmt: skip
    width, height = right - left, bottom - top
    content = place(
        subject, rng, ((left + right) / 2, bottom - 0.04 * height), (width * 0.9, height * 0.9), _side(rng), stretch=1.3
    )
    return SceneLayout(content, container, (figure_layer(container), Layer((opening,), obj), figure_layer(content)))


def _holds(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The object is lifted off the ground in two hands."""
    side = _side(rng)
    holder = place(subject, rng, (0.5 - side * 0.2, FLOOR), (0.56, rng.uniform(0.82, 0.9)), side, stretch=1.4)
    load = place(obj, rng, (0, 0), (0.44, 0.46), _side(rng), stretch=1.2)
    height = np.clip(holder.anchors["shoulder"][1] + 0.06, 0.25, 0.7)
    reach = holder.anchors["shoulder"][0] + side * (0.1 + load.size[0] / 2)
    centre = np.clip(0.5 + side * 0.26 if abs(reach - 0.5) > 0.3 else reach, 0.2, 0.8), height
    held = moved(load, centre - load.centre)
    near = np.sign(held.centre[0] - holder.centre[0])
    edge = held.centre[0] - near * held.size[0] * 0.2
    hands = (np.array([edge, held.centre[1] + offset * held.size[1]]) for offset in (-0.2, 0.28))
    arms = tuple(part for hand in hands for part in _arm(holder, hand, 0.05))
    return SceneLayout(holder, held, (figure_layer(holder, acting=True), figure_layer(held), Layer(arms, subject)))


def _plays(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The object is held across the player's body, with flying notes."""
    side = _side(rng)
    player = place(subject, rng, (0.5 - side * 0.08, FLOOR), (0.78, rng.uniform(0.8, 0.86)), side)
    load = place(obj, rng, (0, 0), (0.54, 0.48), side, lean=-side * 0.5)
    centre = np.array([0.5 + side * 0.06, np.clip(player.anchors["shoulder"][1] + 0.12, 0.4, 0.72)])
    played = moved(load, centre - load.centre)
    hands = [played.centre + played.size * (offset * side, -offset * 0.5) for offset in (-0.18, 0.3)]
    arms = tuple(part for hand in hands for part in _arm(player, hand))
    spots = ((0.5 + side * 0.34, 0.16), (0.5 - side * 0.38, 0.14), (0.5 + side * 0.4, 0.42))
    notes = tuple(part for x, y in spots for part in _note(x, y + rng.uniform(-0.03, 0.03)))
    return SceneLayout(
        player,
        played,
        (figure_layer(player, acting=True), figure_layer(played), Layer(arms, subject), Layer(notes, subject)),
    )


def _note(x: float, y: float) -> tuple[SpritePart, ...]:
    return (
        line("note", 0.022, x - 0.03, y + 0.05, x - 0.03, y - 0.07, x + 0.06, y - 0.09, x + 0.06, y + 0.03),
        oval("note", x - 0.05, y + 0.05, 0.034, 0.026, -20),
        oval("note", x + 0.04, y + 0.03, 0.034, 0.026, -20),
    )


def _wears(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The object is strapped to the wearer's body."""
    side = _side(rng)
    wearer = place(subject, rng, (0.5, FLOOR), (0.94, rng.uniform(0.84, 0.9)), side)
    load = place(obj, rng, (0, 0), (0.48, 0.42), _side(rng))
    worn = moved(load, wearer.anchors["body"] - load.centre)
    x, y = worn.centre
    straps = tuple(
        line("strap", 0.045, x - 0.5 * dx, y - 0.5 * dy, x + 0.5 * dx, y + 0.5 * dy)
        for dx, dy in ((1, 0), (0.6, 1), (-0.6, 1))
    )
    return SceneLayout(wearer, worn, (figure_layer(wearer), Layer(straps, subject, clip=wearer), figure_layer(worn)))


def _hits(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The subject lunges, with speed lines behind it and a star where the blow lands."""
    side = _side(rng)
    hitter = place(subject, rng, (0.5 - side * 0.22, FLOOR), (0.46, 0.78), side, lean=side * 0.2, stretch=1.3)
    target = place(
        obj, rng, (0.5 + side * 0.28, FLOOR - rng.uniform(0, 0.06)), (0.42, 0.7), -side, lean=side * 0.22, stretch=1.3
    )
    height = np.clip(target.centre[1], hitter.anchors["shoulder"][1] - 0.2, hitter.anchors["shoulder"][1] + 0.2)
    blow = np.array([target.centre[0] - side * target.size[0] * 0.42, height])
    back = hitter.box[0] if side > 0 else hitter.box[2]
    levels = hitter.box[1] + hitter.size[1] * np.array([0.3, 0.5, 0.7])
    rush = tuple(line("dark", 0.016, back - side * 0.1, y, back + side * 0.02, y) for y in levels)
    angles = np.arange(16) * np.pi / 8 + rng.uniform(0, 0.4)
    radii = np.where(np.arange(16) % 2, 0.075, 0.15)
    spikes = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + blow
    star = polygon("star", *spikes.ravel())
    layers = (Layer(rush, subject), figure_layer(hitter, acting=True), figure_layer(target), Layer((star,), subject))
    return SceneLayout(hitter, target, (*layers, Layer(_arm(hitter, blow), subject)))


def _at(subject: Look, obj: Look, rng: np.random.Generator) -> SceneLayout:
    """The subject sits on a stool at the object and rests its hands on it."""
    side = _side(rng)
    spot, seat = 0.5 - side * 0.25, FLOOR - rng.uniform(0.2, 0.24)
    target = place(obj, rng, (0.5 + side * 0.24, FLOOR), (0.48, 0.66), -side, stretch=1.3)
    guest = place(subject, rng, (spot, seat + 0.01), (0.46, seat - 0.06), side, stretch=1.3)
    stool = (
        line("seat", 0.035, spot - 0.08, seat, spot - 0.13, FLOOR),
        line("seat", 0.035, spot + 0.08, seat, spot + 0.13, FLOOR),
        line("seat", 0.025, spot - 0.1, (seat + FLOOR) / 2 + 0.03, spot + 0.1, (seat + FLOOR) / 2 + 0.03),
        oval("cushion", spot, seat + 0.01, 0.16, 0.04),
    )
    edge = target.centre[0] - side * target.size[0] * 0.36
    hands = [np.array([edge + side * offset, max(target.box[1], 0.4) + 0.06]) for offset in (0, 0.09)]
    arms = tuple(part for hand in hands for part in _arm(guest, hand, 0.03))
    return SceneLayout(
        guest,
        target,
        (Layer(stool, subject), figure_layer(target), figure_layer(guest, acting=True), Layer(arms, subject)),
    )


LAYOUTS: dict[str, LayoutFn] = {
    "on": _on,
    "under": _under,
    "left_of": functools.partial(_beside, side=-1),
    "right_of": functools.partial(_beside, side=1),
    "inside_of": _inside_of,
    "holds": _holds,
    "wears": _wears,
    "plays": _plays,
    "hits": _hits,
    "interacts_with": _interacts_with,
    "at": _at,
}
