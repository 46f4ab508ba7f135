"""From layers to pixels."""

import functools

import cv2
import numpy as np
import simplejpeg

from tfds_naturel.scenes.backdrop import Backdrop
from tfds_naturel.scenes.layouts import Layer
from tfds_naturel.scenes.shapes import Part
from tfds_naturel.scenes.sprites import Rgb

_SHIFT = 4  # fractional bits of cv2 coordinates
_SMALL = 128  # pixels: smaller pictures are painted at twice their size
_OUTLINE = 0.0085
_INK: Rgb = (48, 38, 44)
_EFFECTS: dict[str, Rgb] = {
    "heart": (236, 60, 120),
    "note": (30, 24, 60),
    "star": (255, 236, 80),
    "strap": (70, 50, 44),
    "seat": (150, 104, 64),
    "cushion": (214, 70, 66),
    "inner": (250, 244, 226),
}


def render(behind: Backdrop, layers: tuple[Layer, ...], size: int) -> np.ndarray:
    """Paints ``layers`` before a backdrop. Returns uint8 [size, size, 3] RGB."""
    side = size * 2 if size < _SMALL else size
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[: round(behind.horizon * side)] = behind.wall
    canvas[round(behind.horizon * side) :] = behind.floor
    for layer in behind.layers + layers:
        _paint(canvas, layer)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def encode_jpeg(image: np.ndarray) -> bytes:
    """JPEG of quality 95 without chroma subsampling, which would blur the colours of small pictures."""
    return simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB", colorsubsampling="444")


def _paint(canvas: np.ndarray, layer: Layer) -> None:
    material = _TEXTURES.get(layer.look.attribute) if layer.clip is None else None
    if layer.clip is None and material is None:
        _parts(canvas, layer)
        return
    painted = canvas.copy()
    _parts(painted, layer)
    if material is None:
        mask = _mask(canvas.shape[0], layer.clip.parts)
        np.copyto(canvas, painted, where=mask[..., None] > 0)
        return
    mask = _mask(canvas.shape[0], tuple(part for part in layer.parts if part.paint in ("main", "shade", "light")))
    texture, weight = material(canvas.shape[0])
    source = canvas if texture is None else texture
    blended = cv2.addWeighted(painted, 1 - weight, source, weight, 0)
    np.copyto(canvas, painted)
    np.copyto(canvas, blended, where=mask[..., None] > 0)


def _parts(canvas: np.ndarray, layer: Layer) -> None:
    side = canvas.shape[0]
    edge = max(1, round(_OUTLINE * side))
    for part in layer.parts:
        colour = _EFFECTS.get(part.paint) or layer.look.palette[part.paint]
        outlined = layer.outlined and part.paint != "dark"
        points = [np.rint(part.points * (side << _SHIFT)).astype(np.int32)]
        if part.width:
            width = max(1, round(part.width * side))
            if outlined and width > edge:
                cv2.polylines(canvas, points, False, _INK, width + 2 * edge - 1, cv2.LINE_AA, _SHIFT)
            cv2.polylines(canvas, points, False, colour, width, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(canvas, points, colour, cv2.LINE_AA, _SHIFT)
            if outlined:
                cv2.polylines(canvas, points, True, _INK, edge, cv2.LINE_AA, _SHIFT)


def _mask(side: int, parts: tuple[Part, ...]) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    for part in parts:
        points = [np.rint(part.points * (side << _SHIFT)).astype(np.int32)]
        if part.width:
            cv2.polylines(mask, points, False, 255, max(1, round(part.width * side)), cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(mask, points, 255, cv2.LINE_8, _SHIFT)
    return mask


@functools.cache
def _grain(side: int) -> tuple[np.ndarray, float]:
    y, x = np.mgrid[:side, :side] / side
    wave = np.sin(2 * np.pi * (y * 13 + 0.5 * np.sin(2 * np.pi * x * 1.7)))
    return _tint(wave > 0.35, (112, 66, 30), (186, 128, 70)), 0.75


@functools.cache
def _stitches(side: int) -> tuple[np.ndarray, float]:
    y, x = np.mgrid[:side, :side] / side
    dots = (np.sin(2 * np.pi * (x + y) * 10) > 0.55) & (np.sin(2 * np.pi * (x - y) * 10) > 0.55)
    return _tint(dots, (214, 176, 120), (96, 50, 32)), 0.8


@functools.cache
def _plaid(side: int) -> tuple[np.ndarray, float]:
    y, x = np.mgrid[:side, :side] / side
    bands = (np.sin(2 * np.pi * x * 9) > 0.2).astype(int) + (np.sin(2 * np.pi * y * 9) > 0.2)
    colours = np.array([(240, 226, 236), (176, 120, 178), (104, 54, 120)], np.uint8)
    return colours[bands], 0.85


def _glass(side: int) -> tuple[None, float]:
    return None, 0.66


def _tint(where: np.ndarray, on: Rgb, off: Rgb) -> np.ndarray:
    return np.where(where[..., None], np.uint8(on), np.uint8(off))


_TEXTURES = {"Wooden": _grain, "Transparent": _glass, "(made of)Leather": _stitches, "(made of)Textile": _plaid}
