"""COCO-Order for training: COCO's captions, each with ARO's four order shuffles as negatives (arXiv 2210.01936).

Reads ``coco_karpathy_train.json`` as distributed by BLIP, and the image folders that it names. Captions and shuffles
are cleaned in the same way, as ARO does before scoring; shuffles equal to their caption are left out.
"""

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfds_naturel.captions import word_order
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import is_unicode, load_json, read_regular
from tfds_naturel.sources import coco
from tfds_naturel.sources.examples import CaptionedImage, Negative, RecipeSource

_TAGGING_BATCH = 256  # images whose captions are tagged together


def read(folder: Path) -> Iterator[CaptionedImage]:
    """The images of the Karpathy training split. Raises UserError for files that are not as published."""
    images = iter(_captions(folder).items())
    while batch := list(itertools.islice(images, _TAGGING_BATCH)):
        tagged = iter(word_order.spacy_tags([text for _, texts in batch for text in texts]))
        for image, texts in batch:
            negatives = [_shuffled(image, n, text, next(tagged)) for n, text in enumerate(texts)]
            if captioned := coco.captioned_image(folder, image, list(zip(texts, negatives, strict=True))):
                yield captioned


def _captions(folder: Path) -> dict[str, list[str]]:
    path = folder / "coco_karpathy_train.json"
    records = load_json(path, read_regular(path))
    if not isinstance(records, list):
        raise UserError(f"{path}: holds a {type(records).__name__}, expected a list of records")
    captions: dict[str, list[str]] = {}
    for n, record in enumerate(records):
        image, texts = (record.get("image"), record.get("caption")) if isinstance(record, dict) else (None, None)
        texts = [texts] if isinstance(texts, str) else texts
        texts = texts if isinstance(texts, list) else []
        sound = all(isinstance(text, str) and is_unicode(text) for text in (image, *texts))
        if not sound or not texts or not isinstance(image, str):
            raise UserError(f"{path}: record {n} is {record!r:.200}; expected an image path and its caption")
        captions.setdefault(image, []).extend(texts)
    return captions


def _shuffled(image: str, n: int, text: str, tagged: word_order.Tagged) -> list[Negative]:
    rng = np.random.default_rng([zlib.crc32(image.encode()), n])
    shuffled = zip(word_order.SHUFFLES, map(word_order.clean, word_order.shuffles(text, tagged, rng)), strict=True)
    return [Negative(negative, operation) for operation, negative in shuffled if negative != word_order.clean(text)]


SOURCE = RecipeSource(
    "coco_order",
    "COCO captions (Karpathy train) with ARO's four order shuffles.",
    folder=coco.FOLDER,
    read=read,
    used=lambda folder: map(coco.number, _captions(folder)),
)
