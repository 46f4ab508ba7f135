"""The review page, on which annotators keep or reject captions (``form``).

It shows the two captions of a pair, and up to two photos of their triplet from the folder that the fetcher filled.
"""

import heapq
import itertools
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel.audit import form
from tfds_naturel.audit.form import Form, Kind, Question, Screen
from tfds_naturel.captions import decisions
from tfds_naturel.captions.bank import Bank
from tfds_naturel.common import pages, photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import BadPhoto
from tfds_naturel.common.schema import Caption, Triplet
from tfds_naturel.open_images import annotations, releases
from tfds_naturel.open_images.annotations import Annotation, Box, Rejects, Vocabulary

PHOTOS = 2  # for each triplet
_CANDIDATES = 3 * PHOTOS  # some photos may turn out to be unusable
_FIELDS = ("text", "kind", "pair", "paraphrase", "polarity", "operation", "shape")  # fields of a caption
_SIDE, _QUALITY = 360, 75  # pixels and JPEG quality of the embedded photos: about 20 KB each

ANSWERS = (("accept", "Keep", "k"), ("reject", "Reject", "r"), ("unclear", "Not sure", "n"))
ASK = {
    "positive": "Meant to be true. Keep it if it says just what the triplet says.",
    "negative": "Meant to be false. Keep it if it is false wherever the triplet holds.",
}
FORM = Form(
    title="NatuRel captions: review",
    guidelines=(
        ("Judge the text against the triplet,", "not against what else a photo shows; boxes mark subject and object."),
        ("A caption that is meant to be true", "says just that: the same relation, the same roles, nothing more."),
        ("One that is meant to be false", "is false wherever the triplet holds, and describes what could be a photo."),
        ("Reject", "what nobody would say, is ungrammatical, changes an object, or may be true as well as false."),
        ("Not sure", "is an answer, too. Say why in a few words; somebody else will decide."),
        ("Judge each of the two captions by itself,", "and do not ask others before you have sent your file."),
    ),
    kinds={polarity: Kind(ask, ANSWERS) for polarity, ask in ASK.items()},
    file="decisions",
    key=("triplet", "text"),
    answer="decision",
    columns=("triplet", "pair", "polarity", "text", "decision", "reason", "annotator"),
    filters=("relation", "kind"),
    explained=("reject", "unclear"),
)

ADJUDICATION = FORM._replace(
    title="NatuRel captions: decide where people differ",
    guidelines=(
        *FORM.guidelines[:4],
        ("Below each caption", "is what each person said, and why. What you decide takes the place of all of it."),
        ("Not sure", "keeps the caption, as a tie between people does."),
    ),
    file="adjudicated",
)


class Shown(NamedTuple):
    """A photo in the page: its address, and the boxes of the subject and the object (None for an attribute)."""

    image_id: str
    address: str
    subject: Box
    object: Box | None


def screens(bank: Bank) -> list[Screen]:
    """The pairs of a bank, each a screen with its true and its false caption."""
    pairs = itertools.groupby(
        (caption for captions in bank.values() for caption in sorted(captions, key=_of_pair)),
        key=lambda caption: (caption.triplet, *_of_pair(caption)),
    )
    return [Screen(str(triplet), tuple(map(_question, captions))) for (triplet, *_), captions in pairs]


def _of_pair(caption: Caption) -> tuple[int, int]:
    return caption.pair, caption.paraphrase


def _question(caption: Caption) -> Question:
    row = {name: getattr(caption, name) for name in _FIELDS}
    row |= {"triplet": str(caption.triplet), "relation": caption.triplet.relation}
    wording = f"paraphrase {caption.paraphrase}" if caption.paraphrase else ""
    tags = dict.fromkeys((wording, caption.kind, caption.shape, caption.operation))
    return Question(caption.polarity, (caption.text,), row, " · ".join(filter(None, tags)))


def sample(chosen: Sequence[Screen], number: int, seed: int) -> list[Screen]:
    """``number`` of the screens, in their order, in the proportions of the relations. Raises UserError for too many."""
    if not 0 < number <= len(chosen):
        raise UserError(f"--sample {number}: expected a number from 1 to {len(chosen)}, the pairs of the bank")
    relations = [Triplet.parse(screen.title).relation for screen in chosen]
    return [chosen[n] for n in sorted(form.sample(relations, number, np.random.default_rng(seed)))]


def disputed(chosen: Sequence[Screen], notes: Mapping[decisions.Key, str]) -> list[Screen]:
    """The screens with a caption that has a note, such as who decided what; of these, the captions that have one."""
    noted = [[q._replace(note=notes[key]) for q in screen.questions if (key := _key(q)) in notes] for screen in chosen]
    return [screen._replace(questions=tuple(q)) for screen, q in zip(chosen, noted, strict=True) if q]


def _key(question: Question) -> decisions.Key:
    return Triplet.parse(question.row["triplet"]), question.row["text"]


def page(
    chosen: Sequence[Screen],
    shown: Mapping[Triplet, Sequence[Shown]] | None = None,
    people: Mapping[str, Sequence[int]] | None = None,
    asked: Form = FORM,
) -> str:
    """The page's HTML. ``shown``: photos of the triplets (``find_photos``); ``people``: see ``form``."""
    titles = {screen.title for screen in chosen}
    photos = {str(t): [_as_shown(t, photo) for photo in of] for t, of in (shown or {}).items() if str(t) in titles}
    return form.page(asked, chosen, people, photos)


def _as_shown(triplet: Triplet, photo: Shown) -> dict[str, Any]:
    roles = ((triplet.subject, "subject", photo.subject), (triplet.object, "object", photo.object))
    boxes = [(label, role, box) for label, role, box in roles if box]
    return {"image_id": photo.image_id, "address": photo.address, "boxes": boxes}


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
    return min(row.subject_box.area, row.object_box.area)


def _shown(row: Annotation, images: Path) -> Shown | None:
    """The photo of an annotation, small enough for a page; None if it cannot be used."""
    try:
        data = photos.reencode((images / f"{row.image_id}.jpg").read_bytes(), _SIDE, _QUALITY)
    except (BadPhoto, OSError):
        return None
    is_attribute = row.triplet.relation == "is"
    return Shown(row.image_id, pages.data_uri("jpeg", data), row.subject_box, None if is_attribute else row.object_box)
