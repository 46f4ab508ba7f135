"""Training data of the published recipes other than NatuRel: captioned images, from the user's copy of the files.

Each source is one file in ``tfds_naturel.sources`` and one entry in ``naturel.RECIPE_SOURCES``.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from tfds_naturel.common import photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import load_json, read_regular
from tfds_naturel.hard_images import mining

Example = tuple[str, dict[str, Any]]


class Negative(NamedTuple):
    """A negative caption, the operation that produced it, and the fact it asserts (empty if unknown)."""

    text: str
    operation: str
    asserts: str = ""


class Group(NamedTuple):
    """A true caption of an image, the fact it asserts, and the negative captions derived from it."""

    positive: str
    asserts: str
    negatives: Sequence[Negative]


class CaptionedImage(NamedTuple):
    """An image with its caption groups. ``read`` returns the image's bytes."""

    image_id: str
    read: Callable[[], bytes]
    source_url: str
    groups: Sequence[Group]


@dataclasses.dataclass(frozen=True)
class RecipeSource:
    """A training source. ``folder``: the collection's name, and its folder in TFDS's manual_dir.

    ``read(folder)`` yields the images; ``used(folder)``, the items of the collection that are trained on;
    ``hard_images(folder)``, if set, the hard negative images listed by the source, in the format of ``mining.save``.
    """

    name: str
    description: str
    folder: str
    read: Callable[[Path], Iterator[CaptionedImage]]
    used: Callable[[Path], Iterable[str]]
    hard_images: Callable[[Path], Iterator[mining.MinedRow]] | None = None
    short_side: int = 288
    quality: int = 92


def examples(source: RecipeSource, folder: Path) -> Iterator[Example]:
    """(key, example) in the format of ``schema.features``. Raises UserError for files that are not as published."""
    for image in source.read(folder):
        try:
            data = photos.to_jpeg(image.read(), source.short_side, source.quality)
        except photos.BadPhoto as error:
            raise UserError(
                f"{folder}: image {image.image_id!r} cannot be read ({error}); download the file again"
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
    """The positive has pair 0 and negative k has pair k, so the first negative is paired with the positive."""
    common = {"group": number, "kind": "complex", "paraphrase": 0, "triplet": "", "shape": "caption"}
    positive = Negative(group.positive, "", group.asserts)
    yield common | {"polarity": "positive", "pair": 0} | positive._asdict()
    for pair, negative in enumerate(group.negatives):
        yield common | {"polarity": "negative", "pair": pair} | negative._asdict()


def used(dataset: epath.PathLike) -> dict[str, frozenset[str]]:
    """The items of each collection that a prepared dataset trains on; empty for NatuRel itself.

    ``winoground``: item ids. ``coco``: image numbers, which may also be in COCO-Order, SugarCrepe and COCO retrieval.
    """
    found = metadata(dataset, "used")
    for collection, items in found.items():
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise UserError(f"{dataset}: metadata.json has {items!r:.80} as used {collection!r:.80}, expected names")
    return {collection: frozenset(items) for collection, items in found.items()}


def metadata(dataset: epath.PathLike, field: str) -> dict[str, Any]:
    """The object in ``field`` of ``metadata.json`` of a prepared dataset, {} without one. Raises UserError for anything
    else."""
    path = Path(dataset) / "metadata.json"
    fields = load_json(path, read_regular(path), "build the dataset again") if path.exists() else {}
    found = fields.get(field, {}) if isinstance(fields, dict) else fields
    if not isinstance(found, dict):
        raise UserError(f"{path}: {field} is {found!r:.80}, expected an object; build the dataset again")
    return found
