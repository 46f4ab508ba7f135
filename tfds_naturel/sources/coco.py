"""Code shared by the sources that use COCO's images."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tfds_naturel.captions import word_order
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import inside
from tfds_naturel.sources.examples import CaptionedImage, Group, Negative

FOLDER = "coco"

_URL = "http://images.cocodataset.org"


def number(image: str) -> str:
    """COCO's image number: ``val2014/COCO_val2014_000000391895.jpg`` is 391895. Raises UserError."""
    digits = re.search(r"(\d{12})\.jpg$", image)
    if not digits:
        raise UserError(f"{image!r}: expected a COCO file name such as COCO_val2014_000000391895.jpg")
    return str(int(digits[1]))


def captioned_image(
    folder: Path, image: str, captions: Sequence[tuple[str, Sequence[Negative]]]
) -> CaptionedImage | None:
    """The image with its (caption, negatives); captions without negatives are left out. None if no caption remains.

    All captions of an image assert the same fact, identified by the image's number.
    """
    fact = f"coco:{number(image)}"
    groups = [Group(word_order.clean(text), fact, negatives) for text, negatives in captions if negatives]
    if not groups:
        return None
    return CaptionedImage(PurePosixPath(image).stem, inside(folder, image).read_bytes, f"{_URL}/{image}", groups)
