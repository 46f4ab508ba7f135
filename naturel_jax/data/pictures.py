"""One image of a batch before it is cropped: encoded, or blank. ``decoded.Kept`` is one that is decoded."""

from typing import NamedTuple

import numpy as np

from naturel_jax.data.augment import augment, sides
from naturel_jax.data.boxes import Box

_WHITE = 255


class Encoded(NamedTuple):
    """An encoded image and its sides."""

    width: int
    height: int
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> "Encoded":
        """Raises ValueError for bytes that are not an image, or one that is too large."""
        return cls(*sides(data), data)

    def fill(self, box: Box, out: np.ndarray, shrink_by: str) -> None:
        """Fills ``out``, uint8 [size, size, 3], with a box. Raises ValueError for an image that is not readable."""
        augment(self.data, self.width, self.height, box, out, shrink_by)


class Blank(NamedTuple):
    """The sentinel: a white image."""

    width: int = 1
    height: int = 1

    def fill(self, box: Box, out: np.ndarray, shrink_by: str) -> None:
        """Fills ``out``, uint8 [size, size, 3]."""
        out.fill(_WHITE)

    def copy(self, box: Box, out: np.ndarray) -> tuple[int, int, bool]:
        """As ``decoded.Kept.copy``: one pixel."""
        out[0, 0] = _WHITE
        return 1, 1, False
