"""Images of any aspect ratio as patches (``models/naflex.py``): the grid of each, and how they are cropped and cut.

Shape letters: N images, P patches of an image, V values of a patch, B boxes; H, W, C rows, columns and channels of
pixels. Sides are in pixels.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from naturel_jax.data.images.augment import Opened
from naturel_jax.data.images.boxes import Box, Boxes, boxes_keeping_ratio
from naturel_jax.data.random.draws import Draws
from naturel_jax.models.naflex import Patches

_LARGEST_SCALE, _PRECISION = 100.0, 1e-5  # of the search for a scale, as in the published code


@functools.lru_cache(maxsize=1 << 14)
def grid(width: int, height: int, patch: int, most: int) -> tuple[int, int]:
    """Rows and columns of the patches that an image of ``width`` x ``height`` pixels is resized to: the largest scale,
    up to 100, at which there are at most ``most``, each side rounded up to whole patches.

    The search has the arithmetic of transformers' ``get_image_size_for_max_num_patches``, on which the result depends
    near a boundary.
    """

    def count(side: int, scale: float) -> int:
        return max(1, math.ceil(side * scale / patch))

    low, high = _PRECISION / 10, _LARGEST_SCALE
    while high - low >= _PRECISION:
        scale = (low + high) / 2
        if count(height, scale) * count(width, scale) <= most:
            low = scale
        else:
            high = scale
    return count(height, low), count(width, low)


def cut(image_HWC: np.ndarray, patch: int) -> np.ndarray:
    """The patches [P, V] of an image whose sides are multiples of ``patch``, in row-major order."""
    rows, columns = (side // patch for side in image_HWC.shape[:2])
    return image_HWC.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2).reshape(rows * columns, -1)


def uncut(patches_PV: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The image [H, W, 3] of the first patches, inverse to ``cut``."""
    patch = math.isqrt(patches_PV.shape[1] // 3)
    grid = patches_PV[: rows * columns].reshape(rows, columns, patch, patch, 3)
    return grid.swapaxes(1, 2).reshape(rows * patch, columns * patch, 3)


def put(images: Patches, n: int, image_HWC: np.ndarray, patch: int) -> None:
    """Makes image ``n`` of uint8 ``images`` the given one. Raises ValueError if that has more patches than there is
    room for."""
    patches_PV, room = cut(image_HWC, patch), images.patches_IPV.shape[1]
    if len(patches_PV) > room:
        raise ValueError(f"an image of {len(patches_PV)} patches; expected at most {room}")
    images.patches_IPV[n, : len(patches_PV)] = patches_PV
    images.patches_IPV[n, len(patches_PV) :] = 0
    images.grid_I2[n] = [side // patch for side in image_HWC.shape[:2]]


def empty(rows: int, patch: int, most: int, new: Callable) -> Patches:
    """uint8 images for ``put``, each with room for ``most`` patches. ``new`` makes a uint8 array of a shape."""
    return Patches(new((rows, most, 3 * patch**2)), np.ones((rows, 2), np.int32))


class PatchCrops(NamedTuple):
    """How training images are cropped for a NaFlex model with at most ``most`` patches of ``patch`` pixels: boxes have
    the aspect ratio of the image. ``scale`` and ``shrink_by`` as in ``augment.Crops``."""

    patch: int
    most: int
    scale: tuple[float, float]
    shrink_by: str

    def empty(self, rows: int, new: Callable) -> Patches:
        """See ``augment.Crops.empty``."""
        return empty(rows, self.patch, self.most, new)

    def boxes(self, width_B: np.ndarray, height_B: np.ndarray, may_mirror_B: np.ndarray, draws: Draws) -> Boxes:
        """A random box in each image."""
        return boxes_keeping_ratio(width_B, height_B, may_mirror_B, self.scale, draws)

    def fill(self, image: Opened, box: Box, images: Patches, n: int) -> None:
        """Fills row ``n`` of ``images`` with a box of an image. Raises what ``image.fill`` raises."""
        rows, columns = grid(box.width, box.height, self.patch, self.most)
        out = np.empty((rows * self.patch, columns * self.patch, 3), np.uint8)
        image.fill(box, out, self.shrink_by)
        put(images, n, out, self.patch)
