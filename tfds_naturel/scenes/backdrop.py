"""The background: wall or sky, floor, and decorations without a class."""

import colorsys
import dataclasses

import numpy as np

from tfds_naturel.scenes.figures import Look
from tfds_naturel.scenes.layouts import Layer
from tfds_naturel.scenes.sprite import Rgb, SpritePart, blob, curve, line, oval, polygon


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """A wall above and a floor below ``horizon`` (0 is the top of the image), with decorations in front of them."""

    wall: Rgb
    floor: Rgb
    horizon: float
    layers: tuple[Layer, ...]


def backdrop(rng: np.random.Generator, clutter: int) -> Backdrop:
    """A pale wall and floor with ``clutter`` decorations, all paler than any object."""
    hue = rng.random()
    wall, floor = _pale(hue, 0.12, 0.94), _pale(hue + rng.uniform(0.2, 0.8), 0.2, 0.82)
    horizon = rng.uniform(0.66, 0.84)
    layers = []
    for choice in rng.integers(len(_DECORATIONS), size=clutter):
        palette = {"back": _pale(rng.random(), 0.22, 0.88), "line": _pale(rng.random(), 0.2, 0.78)}
        parts = _DECORATIONS[choice](rng.uniform(0.1, 0.9), rng.uniform(0.08, horizon - 0.15), horizon)
        layers.append(Layer(parts, Look("", None, palette), outlined=False))
    return Backdrop(wall, floor, horizon, tuple(layers))


def _pale(hue: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _cloud(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    return (
        oval("back", x - 0.08, y, 0.09, 0.05),
        oval("back", x + 0.02, y - 0.03, 0.1, 0.07),
        oval("back", x + 0.11, y, 0.08, 0.045),
    )


def _hill(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    return (polygon("line", x - 0.4, horizon, x - 0.05, horizon - 0.28, x + 0.05, horizon - 0.28, x + 0.4, horizon),)


def _pane(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    frame = polygon("back", x - 0.13, y - 0.12, x + 0.13, y - 0.12, x + 0.13, y + 0.14, x - 0.13, y + 0.14)
    return frame, line("line", 0.02, x, y - 0.12, x, y + 0.14), line("line", 0.02, x - 0.13, y, x + 0.13, y)


def _tree(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    return line("line", 0.05, x, horizon - 0.2, x, horizon), oval("back", x, horizon - 0.32, 0.14, 0.17)


def _rug(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    return oval("back", x, (1 + horizon) / 2, 0.32, 0.06), oval("line", x, (1 + horizon) / 2, 0.2, 0.035)


def _stripes(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    return tuple(line("back", 0.03, u, 0, u, horizon) for u in np.arange(x % 0.16, 1, 0.16))


def _bush(x: float, y: float, horizon: float) -> tuple[SpritePart, ...]:
    edge, low, top = horizon, horizon - 0.1, horizon - 0.14
    bush = blob("back", x - 0.16, edge, x - 0.12, low, x, top, x + 0.12, low, x + 0.16, edge)
    return bush, curve("line", 0.015, x - 0.06, horizon - 0.03, x, horizon - 0.09, x + 0.06, horizon - 0.03)


_DECORATIONS = (_cloud, _hill, _pane, _tree, _rug, _stripes, _bush)
