"""Poses, paints and fits sprites to a box in the unit square of the image (x to the right, y downwards)."""

import dataclasses
import functools

import numpy as np

from tfds_naturel.scenes.sprite import COLOURS, MATERIALS, Rgb, SpritePart
from tfds_naturel.scenes.sprites import SPRITES

_SKIN: tuple[Rgb, ...] = ((244, 204, 172), (222, 172, 130), (176, 122, 84), (126, 84, 58))
_HAIR: tuple[Rgb, ...] = ((52, 40, 36), (94, 62, 40), (186, 132, 66), (118, 112, 112), (150, 74, 40))
_TROUSERS: tuple[Rgb, ...] = ((66, 78, 112), (86, 82, 78), (120, 96, 72), (60, 92, 96))
_FIXED: dict[str, Rgb] = {
    "dark": (46, 40, 46),
    "white": (250, 250, 248),
    "glove": (252, 250, 244),
    "pinkish": (226, 116, 124),
    "leaf": (120, 176, 84),
    "coffee": (96, 62, 44),
    "accent": (196, 120, 72),
    "gold": (226, 186, 92),
    "wine": (140, 30, 62),
    "metal": (196, 200, 206),
    "sky": (196, 226, 240),
}
_TILT, _SHEAR, _ASPECT = np.deg2rad(2.5), 0.05, 0.06  # standard deviations of random poses


@dataclasses.dataclass(frozen=True)
class Look:
    """The appearance of an object: class, colour or material (None: natural colour), and the resulting palette."""

    label: str
    attribute: str | None
    palette: dict[str, Rgb]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A placed look. ``box`` is xmin, ymin, xmax, ymax of all parts; ``anchors`` are the sprite's, in the image."""

    look: Look
    parts: tuple[SpritePart, ...]
    box: np.ndarray
    anchors: dict[str, np.ndarray]

    @property
    def centre(self) -> np.ndarray:
        """The centre (x, y) of the box."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def size(self) -> np.ndarray:
        """(width, height) of the box."""
        return self.box[2:] - self.box[:2]


def moved(figure: Figure, offset: np.ndarray) -> Figure:
    """The figure moved by ``offset`` (x, y)."""
    parts = tuple(SpritePart(part.paint, part.points + offset, part.width, part.resting) for part in figure.parts)
    anchors = {name: anchor + offset for name, anchor in figure.anchors.items()}
    return Figure(figure.look, parts, figure.box + np.tile(offset, 2), anchors)


def make_look(label: str, attribute: str | None, rng: np.random.Generator) -> Look:
    """Chooses the colours of an object. ``attribute`` is a key of COLOURS or MATERIALS, or None."""
    sprite = SPRITES[label]
    picks = rng.integers(0, 1 << 16, 4)
    natural = sprite.colours[picks[0] % len(sprite.colours)]
    base = natural if attribute is None else (COLOURS | MATERIALS)[attribute]
    main = np.clip(np.asarray(base) + rng.integers(-12, 13, 3), 0, 255)
    palette = _FIXED | {
        "main": _rgb(main),
        "shade": _rgb(main * 0.74),
        "light": _rgb(main * 0.55 + 255 * 0.45),
        "skin": _SKIN[picks[1] % len(_SKIN)],
        "hair": _HAIR[picks[2] % len(_HAIR)] if sprite.arm == "skin" else _rgb(main * 0.45),
        "trousers": _TROUSERS[picks[3] % len(_TROUSERS)],
    }
    return Look(label, attribute, palette)


def place(
    look: Look,
    rng: np.random.Generator,
    foot: tuple[float, float],
    space: tuple[float, float],
    facing: int,
    lean: float = 0.0,
    stretch: float = 1.0,
) -> Figure:
    """Poses a look so that the middle of its bottom edge is at ``foot`` and it fills a ``space`` of (width, height).

    ``facing`` is 1 (right) or -1 (left), ``lean`` rotates it (radians, positive is clockwise), ``stretch`` is how far
    its aspect ratio may be changed to fill the space.
    """
    joints, half_widths, spans, names = _assembled(look.label)
    tilt, shear, aspect = rng.normal(size=3) * (_TILT, _SHEAR, _ASPECT)
    sin, cos = np.sin(lean + tilt), np.cos(lean + tilt)
    pose = np.array([[cos, -sin], [sin, cos]]) @ np.array([[facing * np.exp(aspect), shear], [0, 1]])
    posed = joints @ pose.T
    drawn = posed[: len(half_widths)]
    low, high = (drawn - half_widths).min(0), (drawn + half_widths).max(0)
    fit = np.asarray(space) / (high - low)
    scale = np.minimum(fit, fit.min() * stretch)
    placed = (posed - ((low[0] + high[0]) / 2, high[1])) * scale + foot
    thickness = scale.min()
    parts = tuple(
        SpritePart(part.paint, placed[start:stop], part.width * thickness, part.resting)
        for part, (start, stop) in zip(SPRITES[look.label].parts, spans, strict=True)
    )
    extent = (high - low) * scale
    box = np.array([foot[0] - extent[0] / 2, foot[1] - extent[1], foot[0] + extent[0] / 2, foot[1]])
    return Figure(look, parts, box, dict(zip(names, placed[len(half_widths) :], strict=True)))


@functools.cache
def _assembled(label: str) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]], list[str]]:
    """(points of all parts and then anchors [N + A, 2], half line widths [N, 1], span of each part, anchor names)."""
    sprite = SPRITES[label]
    stops = np.cumsum([len(part.points) for part in sprite.parts]).tolist()
    half_widths = np.concatenate([np.full((len(part.points), 1), part.width / 2) for part in sprite.parts])
    window = {"window_low": sprite.window[:2], "window_high": sprite.window[2:]} if sprite.window else {}
    anchors = sprite.anchors | window
    joints = np.concatenate([*(part.points for part in sprite.parts), np.array(list(anchors.values()), np.float32)])
    return joints, half_widths, list(zip([0, *stops[:-1]], stops, strict=True)), list(anchors)


def _rgb(colour: np.ndarray) -> Rgb:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue
