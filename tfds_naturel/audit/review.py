"""The review page: a single HTML file, usable without a server, where annotators accept or reject captions.

It shows the two captions of a pair, and up to two photos of their triplet from the folder that the fetcher filled.
"""

import heapq
import importlib.resources
import os
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from tfds_naturel.captions.bank import Bank
from tfds_naturel.common import pages, photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import BadPhoto
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images import annotations, releases
from tfds_naturel.open_images.annotations import Annotation, Box, Rejects, Vocabulary

PHOTOS = 2  # for each triplet
_CANDIDATES = 3 * PHOTOS  # some photos may turn out to be unusable
_FIELDS = ("text", "kind", "pair", "paraphrase", "polarity", "operation", "shape")  # fields of a caption
_SIDE, _QUALITY = 360, 75  # pixels and JPEG quality of the embedded photos: about 20 KB each


class Shown(NamedTuple):
    """A photo in the page: its address, and the boxes of the subject and the object (None for an attribute)."""

    image_id: str
    address: str
    subject: Box
    object: Box | None


def page(bank: Bank, shown: dict[Triplet, list[Shown]] | None = None) -> str:
    """The page's HTML. ``shown``: the photos of each triplet (see ``find_photos``)."""
    rows = [
        {
            "triplet": str(triplet),
            "relation": triplet.relation,
            **{name: getattr(caption, name) for name in _FIELDS},
        }
        for triplet, captions in bank.items()
        for caption in sorted(captions, key=lambda caption: (caption.pair, caption.paraphrase))
    ]
    listed = {str(triplet): [photo._asdict() for photo in of_triplet] for triplet, of_triplet in (shown or {}).items()}
    template = importlib.resources.files("tfds_naturel.audit") / "review.html"
    return pages.fill(template, rows=pages.script_json(rows), photos=pages.script_json(listed))


def find_photos(folder: Path, triplets: Container[Triplet]) -> dict[Triplet, list[Shown]]:
    """Photos of ``triplets`` in a folder filled by ``tfds_naturel.open_images.fetch`` (``annotations/`` and
    ``images/train/``): those in which the smaller of the two boxes is largest.

    Raises UserError if it has no annotations or no photos.
    """
    images = folder / "images" / "train"
    if not images.is_dir():
        raise UserError(f"{images}: not found; --photos expects a folder of `python -m tfds_naturel.open_images.fetch`")
    found = {}
    for triplet, rows in _candidates(folder / "annotations", triplets, images).items():
        usable = (photo for row in rows if (photo := _shown(row, images)))
        found[triplet] = [photo for photo, _ in zip(usable, range(PHOTOS), strict=False)]
    return found


def _candidates(folder: Path, triplets: Container[Triplet], images: Path) -> dict[Triplet, list[Annotation]]:
    """The best annotations of each triplet among the photos present, one per photo, best first."""
    release = next((r for r in releases.RELEASES.values() if (folder / r.rows.name).is_file()), None)
    if release is None:
        names = " or ".join(r.rows.name for r in releases.RELEASES.values())
        raise UserError(f"{folder}: has no {names}; --photos expects a folder of the fetcher")
    there = {entry.name.removesuffix(".jpg") for entry in os.scandir(images) if entry.is_file(follow_symlinks=False)}
    rejects = Rejects(Path(os.devnull))
    best: dict[Triplet, dict[str, Annotation]] = {}
    for row in annotations.read_rows(folder / release.rows.name, Vocabulary.read(folder, release), rejects):
        if row.image_id not in there or row.triplet not in triplets:
            continue
        of_triplet = best.setdefault(row.triplet, {})
        if row.image_id not in of_triplet or _size(row) > _size(of_triplet[row.image_id]):
            of_triplet[row.image_id] = row
        if len(of_triplet) > 100 * _CANDIDATES:  # common triplets have thousands of photos
            best[row.triplet] = {row.image_id: row for row in _largest(of_triplet)}
    rejects.close()
    return {triplet: _largest(of_triplet) for triplet, of_triplet in best.items()}


def _largest(rows: dict[str, Annotation]) -> list[Annotation]:
    return heapq.nlargest(_CANDIDATES, rows.values(), key=lambda row: (_size(row), row.image_id))


def _size(row: Annotation) -> float:
    """The area of the smaller box."""
    return min((box.xmax - box.xmin) * (box.ymax - box.ymin) for box in (row.subject_box, row.object_box))


def _shown(row: Annotation, images: Path) -> Shown | None:
    """The photo of an annotation, small enough for a page; None if it cannot be used."""
    try:
        data = photos.reencode((images / f"{row.image_id}.jpg").read_bytes(), _SIDE, _QUALITY)
    except (BadPhoto, OSError):
        return None
    is_attribute = row.triplet.relation == "is"
    return Shown(row.image_id, pages.data_uri("jpeg", data), row.subject_box, None if is_attribute else row.object_box)
