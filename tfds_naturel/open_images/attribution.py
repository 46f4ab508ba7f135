"""The author and licence of each photo: Open Images' image metadata, grouped on disk like the annotations."""

import csv
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from tfds_naturel.common.errors import UserError
from tfds_naturel.open_images.annotations import IMAGE_ID, Buckets, Malformed, Rejects

_COLUMNS = ("ImageID", "License", "Author", "OriginalLandingURL")


class Attribution(NamedTuple):
    """The values of the features of the same names, as published."""

    license: str
    author: str
    source_url: str


def spool(path: Path, image_ids: Container[str], buckets: Buckets, rejects: Rejects) -> None:
    """Writes the attributions of the images in ``image_ids`` to ``buckets``; malformed lines go to ``rejects``.

    ``path`` is ``train-images-boxable-with-rotation.csv``. Raises UserError if a column is missing.
    """
    buckets.write(_read(path, image_ids, rejects))


def attributions(buckets: Buckets, prefix: str) -> dict[str, Attribution]:
    """The attributions in one bucket written by ``spool``, by image id."""
    return {image_id: Attribution(*fields) for image_id, *fields in buckets.read(prefix)}


def _read(path: Path, image_ids: Container[str], rejects: Rejects) -> Iterator[tuple[str, ...]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as f:
        reader = csv.reader(f)
        header = next(reader, [])
        missing = [column for column in _COLUMNS if column not in header]
        if missing:
            raise UserError(f"{path}:1: columns {header}; missing {missing}; download the file again")
        indices = [header.index(column) for column in _COLUMNS]
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                rejects.add(path.name, reader.line_num, Malformed("metadata", str(error)), "")
                continue
            if len(row) != len(header) or not IMAGE_ID.fullmatch(row[0]):
                detail = f"{len(row)} columns, ImageID {row[:1]}; expected {len(header)} columns"
                rejects.add(path.name, reader.line_num, Malformed("metadata", detail), ",".join(row))
                continue
            rejects.accepted += 1
            if row[0] in image_ids:
                yield tuple(" ".join(row[i].split()) for i in indices)
