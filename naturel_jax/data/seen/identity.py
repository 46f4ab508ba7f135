"""What identifies an image, in whatever collection or file: its name, its bytes, and what it looks like.

All are numbers of 64 bits, so that millions fit into a sorted array.
"""

import hashlib
import re
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from naturel_jax.data.images.decode import open_image
from tfds_naturel.common import photos

_JPEG = b"\xff\xd8"  # first bytes of a file
_BLANK = 2.0  # standard deviation of luminance below which an image is blank, as in ``photos.inspect``

# How public collections name their images, wherever the files are. Visual7W's are Visual Genome's.
_COLLECTIONS = (
    ("coco", re.compile(r"(?:.*[/_])?(?=\d{12}(?:\.|$))0*(\d+)(?:\.\w+)?")),
    ("visual_genome", re.compile(r"(?:.*/)?(?:VG_100K(?:_2)?/|v7w_)(\d+)\.\w+")),
    ("open_images", re.compile(r"(?:.*/)?([0-9a-f]{16})(?:\.\w+)?")),
)
# A file name says which image it is only if no one else is likely to use it: not img_0001.jpg, but a photo's number on
# Flickr (Flickr30k's names), or a date with the time.
_NUMBER = re.compile(r"[1-9]\d{7,}")


class Seen(NamedTuple):
    """Hashes of an image. ``content``: of its bytes. ``perceptual``: copies of a photo differ in a few bits
    (``photos.phash``); None for a blank image, or one that is not a photo of at least 32 x 32 pixels."""

    content: int
    perceptual: int | None


def of_name(path: str) -> str:
    """The name of the image at ``path``: ``coco:391895``, ``visual_genome:2345``, ``open_images:0a1b2c3d4e5f6789``, or
    ``file:1007129816`` for another file name that no other image is likely to have; "" if there is none."""
    for collection, pattern in _COLLECTIONS:
        if found := pattern.fullmatch(path):
            return f"{collection}:{found[1]}"
    stem = PurePosixPath(path).name.partition(".")[0]
    return f"file:{stem}" if _NUMBER.search(stem) else ""


def number(name: str) -> int:
    """A 64-bit hash of the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def content(data: bytes) -> int:
    """A 64-bit hash of an encoded image's bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def look(data: bytes, perceptual: bool = True) -> Seen:
    """The hashes of an encoded image, whether or not it can be decoded."""
    return Seen(content(data), _perceptual(data) if perceptual else None)


def _perceptual(data: bytes) -> int | None:
    try:
        if data.startswith(_JPEG):
            return photos.inspect(data).phash
        gray = np.asarray(open_image(data).convert("L"))
    except (ValueError, OSError):
        return None
    return photos.phash(gray) if min(gray.shape) >= 32 and gray.std() >= _BLANK else None
