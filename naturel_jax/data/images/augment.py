"""Pixels of training images: decodes, crops, resizes, mirrors. Fast (scaled JPEG decoding, OpenCV), not bit-exact with
PIL. ``boxes.py`` chooses the boxes.

Shape letters: B boxes; H, W rows and columns of pixels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import simplejpeg

from naturel_jax.data.images.boxes import Box, Boxes, random_boxes
from naturel_jax.data.images.decode import decoded, open_image, to_array
from naturel_jax.data.random.draws import Draws
from tfds_naturel.common.photos import check_scans, jpeg_cost, most_pixels

cv2.setNumThreads(0)  # the pipeline has its own threads

_JPEG = b"\xff\xd8"  # first bytes of a file
WHITE = 255
_MOST_FLOATS = 4 << 20  # values of an image that are copied to float32, which takes four times its memory
_MAX_BILINEAR = 1.5  # shrinking by more than this, bilinear interpolation skips pixels that area averages


class Crops(NamedTuple):
    """How images are cropped: the model's ``size`` in pixels, ``config.data.crop_scale`` and ``shrink_by``."""

    size: int
    scale: tuple[float, float]
    shrink_by: str = "area"

    def empty(self, rows: int, new: Callable) -> np.ndarray:
        """Images for ``fill``; ``new`` makes a uint8 array of a shape."""
        images: np.ndarray = new((rows, self.size, self.size, 3))
        return images

    def boxes(self, width_B: np.ndarray, height_B: np.ndarray, may_mirror_B: np.ndarray, draws: Draws) -> Boxes:
        """A random box in each image."""
        return random_boxes(width_B, height_B, may_mirror_B, self.scale, draws)

    def fill(self, image: "Opened", box: Box, images: np.ndarray, n: int) -> None:
        """Fills row ``n`` of ``images`` with a box of an image. Raises what ``image.fill`` raises."""
        image.fill(box, images[n], self.shrink_by)


def sides(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image, without decoding it. Raises ValueError for bytes that are not an image, or
    one that is too large."""
    if not data.startswith(_JPEG):
        with decoded(data) as image:
            return image.size
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        check_scans(data)
    except ValueError as error:
        raise _unreadable(data, error) from error
    if width * height > (most := most_pixels(len(data), jpeg_cost(data, colorspace == "Gray"))):
        raise ValueError(
            f"image of {width} x {height} pixels in {len(data):,} bytes; the limit for so many bytes is {most:,} pixels"
        )
    return width, height


def augment(data: bytes, width: int, height: int, box: Box, out: np.ndarray, shrink_by: str = "area") -> None:
    """Fills ``out``, uint8 [H, W, 3], with ``box`` of an encoded image of these ``sides``, decoded at the smallest JPEG
    scale at which the box still has as many pixels. Raises ValueError for an image that is not readable."""
    shrink = next((s for s in (8, 4, 2) if min(box.width, box.height) >= s * min(out.shape[:2])), 1)
    pixels = decode(data, width, height, shrink)
    resize(_crop(pixels, box, pixels.shape[0] / height), box.mirrored, out, shrink_by)


def decode(data: bytes, width: int, height: int, shrink: int = 1) -> np.ndarray:
    """uint8 [height, width, 3]; for a JPEG, about 1 / ``shrink`` of that: 1, 2, 4 or 8, as libjpeg-turbo is slower at
    its other scales than at full size. Raises ValueError."""
    if not data.startswith(_JPEG):
        return to_array(open_image(data))
    smallest = {"min_height": math.ceil(height / shrink), "min_width": math.ceil(width / shrink)}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **smallest)
    except ValueError as error:
        raise _unreadable(data, error) from error


def _crop(pixels: np.ndarray, box: Box, factor: float) -> np.ndarray:
    """A box of an image; ``pixels`` are a copy of the image, ``factor`` times as large."""
    left, top, width, height = (round(side * factor) for side in box[:4])
    return pixels[top : top + max(height, 1), left : left + max(width, 1)]


def resize(pixels: np.ndarray, mirrored: bool, out: np.ndarray, shrink_by: str = "area") -> None:
    """Fills ``out``, uint8 [H, W, 3], with an image."""
    height, width = out.shape[:2]
    if min(pixels.shape[:2]) <= min(height, width):
        cv2.resize(pixels, (width, height), out, interpolation=cv2.INTER_CUBIC)
    elif shrink_by == "bilinear" and max(pixels.shape[0] / height, pixels.shape[1] / width) <= _MAX_BILINEAR:
        cv2.resize(pixels, (width, height), out, interpolation=cv2.INTER_LINEAR)
    else:  # OpenCV gives the same from uint8, but takes a quarter longer: it adds float32 anyway
        few = pixels if pixels.size > _MOST_FLOATS else pixels.astype(np.float32)
        small = cv2.resize(few, (width, height), interpolation=cv2.INTER_AREA)
        cv2.convertScaleAbs(small, out)
    if mirrored:
        cv2.flip(out, 1, out)


def join(first: np.ndarray, second: np.ndarray, out: np.ndarray, *, above: bool) -> None:
    """Fills ``out`` with two images of its shape, uint8 [S, S, 3], each squeezed to a half: the first ``above`` the
    second, or left of it. ``out`` may be one of them."""
    size = len(out)
    halves = [
        cv2.resize(pixels, (size, half) if above else (half, size), interpolation=cv2.INTER_AREA)
        for pixels, half in ((first, size // 2), (second, size - size // 2))
    ]
    np.concatenate(halves, axis=0 if above else 1, out=out)


def _unreadable(data: bytes, error: ValueError) -> ValueError:
    return ValueError(f"not a readable JPEG ({len(data)} bytes): {error}")


# ---- One image of a batch before it is cropped -----------------------------------------------------------------------


class Opened(Protocol):
    """``Encoded``, ``Blank`` or ``decoded.Kept``."""

    @property
    def width(self) -> int:
        """Width of the whole image in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height of the whole image in pixels."""
        ...

    def fill(self, box: Box, out: np.ndarray, shrink_by: str) -> None:
        """Fills ``out``, uint8 [H, W, 3], with a box. Raises ValueError for an image that is not readable."""
        ...


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
        """See ``Opened.fill``."""
        augment(self.data, self.width, self.height, box, out, shrink_by)


class Blank(NamedTuple):
    """The sentinel: a white square."""

    width: int = 256
    height: int = 256

    def fill(self, box: Box, out: np.ndarray, shrink_by: str) -> None:
        """See ``Opened.fill``."""
        out.fill(WHITE)
