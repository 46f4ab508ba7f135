"""Training images: decode, random resized crop, mirror. Fast (scaled JPEG decoding, OpenCV), not bit-exact with PIL."""

import dataclasses
import math

import cv2
import numpy as np
import simplejpeg

from naturel_jax.data.images import open_image
from tfds_naturel.photos import MAX_PIXELS

cv2.setNumThreads(0)  # the pipeline has its own threads

_JPEG = b"\xff\xd8"  # first bytes of a file

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclasses.dataclass(frozen=True)
class Augment:
    """A random resized crop covering ``scale`` (low, high) of the image's area, with aspect ``ratio`` (low, high),
    mirrored half of the time if that keeps the captions true. ``size`` in pixels."""

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, data: bytes, mirror: bool, rng: np.random.Generator, out: np.ndarray) -> None:
        """Fills ``out``, uint8 [size, size, 3], from an encoded image. Raises ValueError for bytes that are not a
        readable image, or one that is too large."""
        if data.startswith(_JPEG):
            pixels, (left, top, width, height) = self._decode_jpeg(data, rng)
        else:
            pixels = np.asarray(open_image(data))
            left, top, width, height = random_box(pixels.shape[1], pixels.shape[0], self.scale, self.ratio, rng)
        crop = pixels[top : top + height, left : left + width]
        shrinks = min(width, height) > self.size
        cv2.resize(crop, out.shape[:2], out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        if mirror and rng.random() < 0.5:
            cv2.flip(out, 1, out)

    def _decode_jpeg(self, data: bytes, rng: np.random.Generator) -> tuple[np.ndarray, Box]:
        """Pixels at the smallest JPEG scale whose crop still has ``size`` pixels per side, and the crop's box in them.

        Halves, quarters and eighths only: libjpeg-turbo is slower at its other scales than at full size.
        """
        try:
            height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
        except ValueError as error:
            raise _unreadable(data, error) from error
        if width * height > MAX_PIXELS:
            raise ValueError(f"image of {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
        box = random_box(width, height, self.scale, self.ratio, rng)
        shrink = next((s for s in (8, 4, 2) if min(box[2], box[3]) >= s * self.size), 1)
        try:
            pixels = simplejpeg.decode_jpeg(
                data, "RGB", min_height=math.ceil(height / shrink), min_width=math.ceil(width / shrink)
            )
        except ValueError as error:
            raise _unreadable(data, error) from error
        shrunk = pixels.shape[0] / height
        left, top, w, h = (round(side * shrunk) for side in box)
        return pixels, (left, top, max(min(w, pixels.shape[1] - left), 1), max(min(h, pixels.shape[0] - top), 1))


def _unreadable(data: bytes, error: ValueError) -> ValueError:
    return ValueError(f"not a readable JPEG ({len(data)} bytes): {error}")


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A random crop of an image of ``width`` x ``height`` pixels, as torchvision's RandomResizedCrop samples it: ten
    attempts, then the largest centred square."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side
