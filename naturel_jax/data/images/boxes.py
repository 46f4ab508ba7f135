"""Random boxes of a batch of images: which part of each is trained on, and whether it is mirrored.

Shape letter: B images. Sides are in pixels.
"""

import math
from typing import NamedTuple

import numpy as np

from naturel_jax.data.random.draws import Draws

RATIO = (3 / 4, 4 / 3)  # range of width to height, torchvision's
_ATTEMPTS = 10


class Box(NamedTuple):
    """A part of one image."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False


class Boxes(NamedTuple):
    """A box in each image; int64 [B], ``mirrored_B`` bool."""

    left_B: np.ndarray
    top_B: np.ndarray
    width_B: np.ndarray
    height_B: np.ndarray
    mirrored_B: np.ndarray

    def each(self) -> list[Box]:
        """The boxes one by one."""
        return list(map(Box, *(column.tolist() for column in self)))


def random_boxes(
    width_B: np.ndarray, height_B: np.ndarray, may_mirror_B: np.ndarray, scale: tuple[float, float], draws: Draws
) -> Boxes:
    """Boxes in images of these sides that cover ``scale`` (low, high) of the area, mirrored half of the time where
    ``may_mirror_B``.

    They are torchvision's RandomResizedCrop: an area and an aspect ratio are drawn up to ten times, until the box fits.
    If it never does, the box is the largest centred square, where torchvision takes the largest box of an allowed
    ratio. With a ``scale`` of (1, 1), it always is.
    """
    box_width_B, box_height_B = np.minimum(width_B, height_B), np.minimum(width_B, height_B)
    left_B, top_B = (width_B - box_width_B) // 2, (height_B - box_height_B) // 2
    drawn = draws.uniform(1 if is_fixed(scale) else 3 + 2 * _ATTEMPTS).T  # one row for each purpose
    if not is_fixed(scale):
        fits_B = np.zeros(len(width_B), bool)
        low, high = map(math.log, RATIO)
        for of_area_B, of_aspect_B in drawn[3:].reshape(_ATTEMPTS, 2, -1):
            rows = np.flatnonzero(~fits_B)
            area = width_B[rows] * height_B[rows] * (scale[0] + (scale[1] - scale[0]) * of_area_B[rows])
            exponents = low + (high - low) * of_aspect_B[rows]
            aspect = np.array([*map(math.exp, exponents.tolist())])  # NumPy's exp depends on the processor
            width, height = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
            fits = (width > 0) & (width <= width_B[rows]) & (height > 0) & (height <= height_B[rows])
            found = rows[fits]
            box_width_B[found], box_height_B[found] = width[fits], height[fits]
            fits_B[found] = True
        drawn_left_B = (drawn[1] * (width_B - box_width_B + 1)).astype(np.int64)
        drawn_top_B = (drawn[2] * (height_B - box_height_B + 1)).astype(np.int64)
        left_B, top_B = np.where(fits_B, drawn_left_B, left_B), np.where(fits_B, drawn_top_B, top_B)
    return Boxes(left_B, top_B, box_width_B, box_height_B, may_mirror_B & (drawn[0] < 0.5))


def boxes_keeping_ratio(
    width_B: np.ndarray, height_B: np.ndarray, may_mirror_B: np.ndarray, scale: tuple[float, float], draws: Draws
) -> Boxes:
    """Random boxes as in ``random_boxes``, but with the aspect ratio of their image, up to rounding. With a ``scale``
    of (1, 1), whole images."""
    mirror_B, of_left_B, of_top_B, of_area_B = draws.uniform(4).T
    factor_B = np.sqrt(scale[0] + (scale[1] - scale[0]) * of_area_B)
    box_width_B, box_height_B = (
        np.maximum(np.rint(side * factor_B), 1).astype(np.int64) for side in (width_B, height_B)
    )
    left_B, top_B = (of_left_B * (width_B - box_width_B + 1)), (of_top_B * (height_B - box_height_B + 1))
    corner = (left_B.astype(np.int64), top_B.astype(np.int64))
    return Boxes(*corner, box_width_B, box_height_B, may_mirror_B & (mirror_B < 0.5))


def is_fixed(scale: tuple[float, float]) -> bool:
    """Whether every box of an image is the same."""
    return scale == (1.0, 1.0)


def only_square(width: int, height: int, scale: tuple[float, float]) -> bool:
    """Whether the largest centred square is the only possible box of an image of these sides: they differ so much that
    any box of an allowed ratio is too small."""
    long, short = max(width, height), min(width, height)
    widest = max(RATIO[1], 1 / RATIO[0])
    return is_fixed(scale) or scale[0] * long * short > widest * (short + 0.5) ** 2  # sides are rounded
