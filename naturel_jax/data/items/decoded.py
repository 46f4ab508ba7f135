"""Decoded images in memory-mapped files, from which a batch is cropped without decoding (``config.data.cache``).

The part that random boxes can cover is kept: the whole image, or, if its sides differ so much that only the largest
centred square is ever trained on, that square. An image whose short side is at most ``longest(crops)`` is kept with the
pixels that decoding gives, so training sees the same pixels, bit for bit. A larger one is shrunk to that: it is then
resized twice, and the edges of a box move by up to half a kept pixel. With a crop scale of (1, 1), the square is kept
at the model's size, and training sees the same pixels again.

The folder of a source (``decoded_writer.py`` makes it) has blocks of ``BLOCK`` images:

    meta.json        what is in it, for people
    00012.uint8      pixels, one image after another
    00012.rows       XXH3 of the rest of this file; a ``ROW`` for each image

Shape letters: N images.
"""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from naturel_jax.data.images.augment import Crops, augment, resize, sides
from naturel_jax.data.images.boxes import Box, is_fixed, only_square
from naturel_jax.data.items import columns
from naturel_jax.storage import once

_LOG = logging.getLogger(__name__)

BLOCK = 1024  # images; 0.3 GB at 224 pixels
ROW = np.dtype(
    [(name, "<i4") for name in ("width", "height")]  # of the image
    + [(name, "<i4") for name in ("left", "top", "part_width", "part_height")]  # the part of it that is kept,
    + [(name, "<i4") for name in ("kept_width", "kept_height")]  # and the sides of the copy
    + [("start", "<i8")]  # in the block, bytes
    + [("pixels", "<u8"), ("encoded", "<u8")]  # XXH3
)
_MARGIN = 9 / 7  # at 224 pixels, with 10% cropped: 304. NatuRel's photos have 288, so they are not shrunk


def longest(crops: Crops) -> int:
    """The short side to which larger images are shrunk: a box that covers the smallest share of the area still has more
    pixels on each side than the model."""
    return math.ceil(crops.size * _MARGIN / math.sqrt(crops.scale[0]))


def keep(data: bytes, crops: Crops) -> tuple[np.ndarray, np.ndarray]:
    """The pixels [H, W, 3] that are kept of an encoded image, and its ``ROW`` without start and checksums. Raises
    ValueError for an image that is not readable."""
    width, height = sides(data)
    part = Box(0, 0, width, height)
    if only_square(width, height, crops.scale):
        short = min(width, height)
        part = Box((width - short) // 2, (height - short) // 2, short, short)
    factor = min(longest(crops) / min(part.width, part.height), 1)
    kept = (round(part.width * factor), round(part.height * factor))
    if is_fixed(crops.scale):
        kept = (crops.size, crops.size)
    pixels = np.empty((kept[1], kept[0], 3), np.uint8)
    augment(data, width, height, part, pixels, crops.shrink_by)
    return pixels, np.array((width, height, *part[:4], *kept, 0, 0, 0), ROW)


class Kept(NamedTuple):
    """A decoded image: its sides, the part of it that is kept, and the pixels of that part [H, W, 3]."""

    width: int
    height: int
    part: Box
    pixels: np.ndarray

    def crop(self, box: Box) -> np.ndarray:
        """The pixels of a box, a view; its edges are rounded to kept pixels."""
        (height, width), part = self.pixels.shape[:2], self.part
        top, bottom = _span(box.top - part.top, box.height, height / part.height, height)
        left, right = _span(box.left - part.left, box.width, width / part.width, width)
        return self.pixels[top:bottom, left:right]

    def fill(self, box: Box, out: np.ndarray, shrink_by: str) -> None:
        """See ``augment.Opened.fill``."""
        resize(self.crop(box), box.mirrored, out, shrink_by)


def _span(start: int, length: int, factor: float, most: int) -> tuple[int, int]:
    first = min(round(start * factor), most - 1)
    return first, max(round((start + length) * factor), first + 1)


class Decoded:
    """The decoded images of a source, by their numbers in it. Thread-safe; a pickled one is opened again.

    The checksum of an image is checked on first use. A damaged one is decoded again.
    """

    def __init__(self, folder: Path, crops: Crops, read_image: Callable[[int], bytes], count: int):
        self._arguments = (folder, crops, read_image, count)
        self._folder, self._crops, self._read_image = folder, crops, read_image
        blocks = range(math.ceil(count / BLOCK))
        self.rows_N = np.concatenate([read_rows(folder, block) for block in blocks])
        self._pixels = [np.asarray(columns.mapped(pixels_path(folder, block))) for block in blocks]
        self._is_checked_N = np.zeros(count, bool)

    def __reduce__(self) -> tuple[Any, ...]:
        return Decoded, self._arguments

    def __getitem__(self, n: int) -> Kept:
        """Image ``n``. Raises DamagedCopy for one that is damaged and cannot be decoded again."""
        width, height, *part, kept_width, kept_height, start, checksum, _ = self.rows_N[n].tolist()
        pixels = self._pixels[n // BLOCK][start : start + kept_height * kept_width * 3]
        if not self._is_checked_N[n]:
            if xxhash.xxh3_64_intdigest(pixels.data) != checksum:
                self._repair(n)
            self._is_checked_N[n] = True
        return Kept(width, height, Box(*part), pixels.reshape(kept_height, kept_width, 3))

    def _repair(self, n: int) -> None:
        path, row, data = pixels_path(self._folder, n // BLOCK), self.rows_N[n], self._read_image(n)
        if xxhash.xxh3_64_intdigest(data) != row["encoded"]:
            raise once.DamagedCopy(f"is damaged in {path}, and its file has changed since; remove {self._folder}")
        pixels, _ = keep(data, self._crops)
        if xxhash.xxh3_64_intdigest(pixels.data) != row["pixels"]:
            raise once.DamagedCopy(
                f"is damaged in {path}, and other libraries decode it differently; remove {self._folder}"
            )
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), pixels.data, int(row["start"]))
        _LOG.warning("%s: the pixels of image %d were damaged; it was decoded again", path, n)


def pixels_path(folder: Path, block: int) -> Path:
    """The pixels of a block."""
    return folder / f"{block:05}.uint8"


def rows_path(folder: Path, block: int) -> Path:
    """The ``ROW`` of each image of a block."""
    return folder / f"{block:05}.rows"


def read_rows(folder: Path, block: int) -> np.ndarray:
    """The ``ROW`` of each image of a block. Raises ValueError if they are damaged, or the pixels are not as long."""
    rows = np.frombuffer(once.read_block(rows_path(folder, block)), ROW)
    expected = 3 * int((rows["kept_width"].astype(np.int64) * rows["kept_height"]).sum())
    if (found := pixels_path(folder, block).stat().st_size) != expected:
        raise ValueError(f"{pixels_path(folder, block)} has {found:,} bytes; expected {expected:,}")
    return rows
