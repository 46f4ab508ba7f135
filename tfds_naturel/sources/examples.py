"""What the published recipes train on beside NatuRel: images with captions, from files that the user has.

Each source is one file in ``tfds_naturel.sources`` and one entry of ``naturel.RECIPE_SOURCES``.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from tfds_naturel import mining, photos
from tfds_naturel.errors import UserError

Example = tuple[str, dict[str, Any]]


class Negative(NamedTuple):
    """A wrong caption, what made it, and the fact it asserts (empty: unknown)."""

    text: str
    operation: str
    asserts: str = ""


class Group(NamedTuple):
    """A caption of an image, the fact it asserts, and the wrong captions made from it."""

    positive: str
    asserts: str
    negatives: Sequence[Negative]


class Described(NamedTuple):
    """An image with its captions. ``read`` returns the image's bytes."""

    image_id: str
    read: Callable[[], bytes]
    source_url: str
    groups: Sequence[Group]


@dataclasses.dataclass(frozen=True)
class RecipeSource:
    """``read(folder)`` yields the images of the source; ``folder`` is below TFDS's manual_dir and names the collection.

    ``used(folder)``: the items of the collection that are trained on. ``hard_images(folder)``: the hard negative images
    that the source itself names, if any, in the form of ``mining.save``.
    """

    name: str
    description: str
    folder: str
    read: Callable[[Path], Iterator[Described]]
    used: Callable[[Path], Iterable[str]]
    hard_images: Callable[[Path], Iterator[mining.Row]] | None = None
    short_side: int = 288
    quality: int = 92


def examples(source: RecipeSource, folder: Path) -> Iterator[Example]:
    """(key, example) in the form of ``schema.features``. Raises UserError for files that are not as published."""
    for image in source.read(folder):
        try:
            data = photos.to_jpeg(image.read(), source.short_side, source.quality)
        except photos.BadPhoto as error:
            raise UserError(
                f"{folder}: image {image.image_id!r} cannot be read ({error}); get the file again"
            ) from error
        yield (
            image.image_id,
            {
                "image": data,
                "image_id": image.image_id,
                "license": "",
                "author": "",
                "source_url": image.source_url,
                "objects": [],
                "relations": [],
                "captions": [row for number, group in enumerate(image.groups) for row in _rows(number, group)],
            },
        )


def _rows(number: int, group: Group) -> Iterator[dict[str, Any]]:
    """The positive is pair 0, negative k is pair k: the first negative is the positive's partner."""
    yield _row(number, 0, "positive", group.positive, group.asserts, "")
    for pair, negative in enumerate(group.negatives):
        yield _row(number, pair, "negative", negative.text, negative.asserts, negative.operation)


def _row(group: int, pair: int, polarity: str, text: str, asserts: str, operation: str) -> dict[str, Any]:
    return {
        "text": text,
        "group": group,
        "kind": "complex",
        "polarity": polarity,
        "pair": pair,
        "triplet": "",
        "asserts": asserts,
        "operation": operation,
        "shape": "caption",
    }


def used(dataset: epath.PathLike) -> dict[str, frozenset[str]]:
    """The items of each collection that a prepared dataset trains on: none for NatuRel itself.

    ``winoground``: item ids. ``coco``: image numbers, which COCO-Order, SugarCrepe and COCO retrieval may share.
    """
    path = epath.Path(dataset) / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {collection: frozenset(items) for collection, items in metadata.get("used", {}).items()}
