"""Renders layers to pixels."""

import functools
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg

from tfds_naturel.scenes.backdrop import Backdrop
from tfds_naturel.scenes.layouts import Layer
from tfds_naturel.scenes.sprite import Rgb, SpritePart

_SURFACE = frozenset({"main", "shade", "light"})  # paints that show the texture of a material
_SHIFT = 4  # fractional bits of cv2 coordinates
_SMALL = 128  # pixels; smaller images are painted at twice their size
_OUTLINE = 0.006
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
    """Paints ``layers`` in front of a backdrop. Returns uint8 [size, size, 3] RGB."""
    side = size * 2 if size < _SMALL else size
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[: round(behind.horizon * side)] = behind.wall
    canvas[round(behind.horizon * side) :] = behind.floor
    for layer in behind.layers + layers:
        _paint(canvas, layer)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes as JPEG, quality 95, without chroma subsampling, which would blur the colours of small images."""
    return simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB", colorsubsampling="444")


def _paint(canvas: np.ndarray, layer: Layer) -> None:
    if layer.clip:
        painted = canvas.copy()
        _draw(painted, layer)
        np.copyto(canvas, painted, where=_mask(canvas, layer, layer.clip.parts))
        return
    _draw(canvas, layer)
    if layer.look.attribute in _TEXTURES:
        texture, weight = _TEXTURES[layer.look.attribute](canvas.shape[0])
        surface = _mask(canvas, layer, layer.parts, _SURFACE)
        blended = cv2.addWeighted(canvas, 1 - weight, texture, weight, 0)
        np.copyto(canvas, blended, where=surface)


def _draw(canvas: np.ndarray, layer: Layer) -> None:
    edge = max(1, round(_OUTLINE * canvas.shape[0]))
    for part, points, width in _placed(canvas, layer, layer.parts):
        colour = _EFFECTS.get(part.paint) or layer.look.palette[part.paint]
        outlined = layer.outlined and part.paint != "dark"
        if width:
            if outlined and width > edge:
                cv2.polylines(canvas, points, False, _INK, width + 2 * edge, cv2.LINE_AA, _SHIFT)
            cv2.polylines(canvas, points, False, colour, width, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(canvas, points, colour, cv2.LINE_AA, _SHIFT)
            if outlined:
                cv2.polylines(canvas, points, True, _INK, edge, cv2.LINE_AA, _SHIFT)


def _mask(
    canvas: np.ndarray, layer: Layer, parts: tuple[SpritePart, ...], paints: frozenset[str] | None = None
) -> np.ndarray:
    """bool [side, side, 1]: where the parts cover the canvas; with ``paints``, only where one of these is on top."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for part, points, width in _placed(canvas, layer, parts):
        shown = int(paints is None or part.paint in paints)
        if width:
            cv2.polylines(mask, points, False, shown, width, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(mask, points, shown, cv2.LINE_8, _SHIFT)
    return mask[..., None] > 0


def _placed(
    canvas: np.ndarray, layer: Layer, parts: tuple[SpritePart, ...]
) -> Iterator[tuple[SpritePart, list[np.ndarray], int]]:
    """Each part with its points in cv2's fixed-point pixels and its line width in pixels (0: filled)."""
    side = canvas.shape[0]
    scale, shift = layer.scale * (side << _SHIFT), np.asarray(layer.shift) * (side << _SHIFT)
    for part in parts:
        width = max(1, round(part.width * layer.scale * side)) if part.width else 0
        yield part, [np.rint(part.points * scale + shift).astype(np.int32)], width


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


def _tint(where: np.ndarray, on: Rgb, off: Rgb) -> np.ndarray:
    return np.where(where[..., None], np.array(on, np.uint8), np.array(off, np.uint8))


_TEXTURES = {"Wooden": _grain, "(made of)Leather": _stitches, "(made of)Textile": _plaid}
