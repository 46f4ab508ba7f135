"""Drawings: their outlines (filled polygons and thick lines, in any units), colours and materials."""

import dataclasses

import numpy as np

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "Red": (222, 38, 40),
    "Blue": (38, 88, 226),
    "Green": (36, 168, 62),
    "Yellow": (250, 214, 36),
}
MATERIALS: dict[str, Rgb] = {
    "Wooden": (176, 118, 62),
    "(made of)Leather": (104, 58, 36),
    "(made of)Textile": (208, 178, 214),
}

_OVAL = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CURVE = np.linspace(0, 1, 5)[:-1]


@dataclasses.dataclass(frozen=True)
class SpritePart:
    """An outline: ``points`` [N, 2] (x, y), y downwards; filled if ``width`` is 0, otherwise a line of that width.

    ``paint`` names a colour of the figure's palette. A ``resting`` part is a limb that an acting arm replaces.
    """

    paint: str
    points: np.ndarray
    width: float = 0.0
    resting: bool = False


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A drawing of one class, facing right.

    ``anchors`` are the points (x, y) where acting arms start (``shoulder``), a worn object sits (``body``), other
    objects stand on it (``stand``), and a thing gets eyes when it acts (``face``). ``window`` (xmin, ymin, xmax, ymax)
    is where the contents of a container are visible. ``colours`` are the natural colours of its main surface, ``arm``
    the paint of its acting arms. Positions are in the units of ``parts``.
    """

    parts: tuple[SpritePart, ...]
    anchors: dict[str, tuple[float, float]]
    colours: tuple[Rgb, ...]
    window: tuple[float, float, float, float] | None = None
    arm: str = "glove"


def _points(flat: tuple[float, ...]) -> np.ndarray:
    return np.asarray(flat, np.float32).reshape(-1, 2)


def _smooth(points: np.ndarray, closed: bool) -> np.ndarray:
    """Uniform Catmull-Rom spline through ``points`` (Catmull and Rom, 1974)."""
    around = (
        np.concatenate([points[-1:], points, points[:2]])
        if closed
        else np.concatenate([points[:1], points, points[-1:]])
    )
    p0, p1, p2, p3 = around[:-3, None], around[1:-2, None], around[2:-1, None], around[3:, None]
    t = _CURVE[:, None]
    spline = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    spline = spline.reshape(-1, 2)
    return (spline if closed else np.concatenate([spline, points[-1:]])).astype(np.float32)


def polygon(paint: str, *flat: float) -> SpritePart:
    """The filled polygon with corners ``flat`` (x, y, x, y, ...)."""
    return SpritePart(paint, _points(flat))


def blob(paint: str, *flat: float) -> SpritePart:
    """A smooth closed outline through the points."""
    return SpritePart(paint, _smooth(_points(flat), closed=True))


def oval(paint: str, x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> SpritePart:
    """The filled ellipse around (x, y) with radii ``rx`` and ``ry``, rotated by ``degrees``."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = np.stack([rx * np.cos(_OVAL), ry * np.sin(_OVAL)], 1) @ turn + (x, y)
    return SpritePart(paint, points.astype(np.float32))


def line(paint: str, width: float, *flat: float) -> SpritePart:
    """The open polyline through the points ``flat`` (x, y, x, y, ...)."""
    return SpritePart(paint, _points(flat), width)


def curve(paint: str, width: float, *flat: float) -> SpritePart:
    """A smooth open line through the points."""
    return SpritePart(paint, _smooth(_points(flat), closed=False), width)


def resting(part: SpritePart) -> SpritePart:
    """Marks ``part`` as a limb that is left out when its figure acts."""
    return dataclasses.replace(part, resting=True)
