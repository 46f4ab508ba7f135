"""The definition of a class's drawing, and the colours and materials that objects are painted in."""

import dataclasses

from tfds_naturel.scenes.shapes import SpritePart

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


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A drawing of one class, facing right.

    ``shoulder`` is where acting arms start, ``face`` where a thing gets eyes when it acts, ``body`` where a worn object
    sits, and ``top`` the height at which other objects stand on it. ``window`` (xmin, ymin, xmax, ymax) is where the
    contents of a container are visible. ``colours`` are the natural colours of its main surface, ``arm`` the paint of
    its acting arms. Positions are in the units of ``parts``.
    """

    parts: tuple[SpritePart, ...]
    shoulder: tuple[float, float]
    body: tuple[float, float]
    colours: tuple[Rgb, ...]
    face: tuple[float, float] | None = None
    top: float = 0.0
    window: tuple[float, float, float, float] | None = None
    arm: str = "glove"
