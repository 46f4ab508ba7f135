"""Plans a build from Open Images: reads the annotations, checks the photos, and assigns every image to a split.

Everything that grows with the data is in bucket files below one folder (``Buckets``), so that a generator or a single
Beam worker can build the examples of one split and bucket.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from tfds_naturel.captions import bank
from tfds_naturel.common import photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, reading_csv
from tfds_naturel.common.photos import BadPhoto, Photo
from tfds_naturel.common.schema import Exchange, Kind, Triplet, facts_of, name_of
from tfds_naturel.hard_images.survey import Survey
from tfds_naturel.open_images import annotations as annotation_rows
from tfds_naturel.open_images import attribution, boxes, exchanges, journal, releases, splits
from tfds_naturel.open_images.annotations import IMAGE_ID, AnnotatedImage, Buckets, Rejects, Vocabulary
from tfds_naturel.open_images.attribution import Attribution

SPLITS = (*splits.SHARES, splits.UNSEEN)
TAKEDOWN = Path(__file__).with_name("takedown.txt")  # images that their owners asked to remove

_TESTS = ("test", splits.UNSEEN)
_BUCKETS = ("rows", "splits", "attributions")
_EXCHANGES = "exchanges"
_MAX_COPIES = 3  # if more images share a photo (same size and hash), it is a placeholder
_BATCH = 4096  # photos checked by the threads at once
_RANGES = {"short_side": (32, 8192), "quality": (1, 100), "max_rejected": (0, 1), "max_missing": (0, 1)}
_KEPT: dict[str, Callable[[Triplet], bool]] = {
    "all": lambda triplet: True,
    "objects": lambda triplet: triplet.relation != "is",
    "attributes": lambda triplet: triplet.relation == "is",
}


@dataclasses.dataclass(frozen=True)
class OpenImagesConfig:
    """A dataset of Open Images photos.

    ``kept``: which triplets to keep (``all``; ``objects``: all but the relation ``is``; ``attributes``: only ``is``).
    ``annotations`` and ``images``: folders of the user's files; by default those filled by ``fetch`` below TFDS's
    manual_dir. ``official``: refuse annotation files other than the published ones. ``max_rejected`` and
    ``max_missing``: shares of malformed rows, and of annotated images without a usable photo, above which the build
    fails. ``bank``: a caption bank instead of the published one; ``decisions``: annotators' files about it, of whom the
    majority counts. ``takedown``: a list of images to leave out, besides the published one (``taken_down``).
    ``short_side``: maximum short side of the re-encoded photos, in pixels; ``quality``: their JPEG quality. Raises
    UserError for numbers out of range.
    """

    name: str
    description: str
    release: str = "v4"
    kept: str = "all"
    annotations: Path | None = None
    images: Path | None = None
    official: bool = True
    bank: Path | None = None
    decisions: tuple[Path, ...] = ()
    takedown: Path | None = None
    seed: int = 0
    short_side: int = 288
    quality: int = 92
    max_rejected: float = 0.001
    max_missing: float = 0.05

    def __post_init__(self) -> None:
        for field, (low, high) in _RANGES.items():
            if not low <= getattr(self, field) <= high:
                raise UserError(f"{field} {getattr(self, field)}: expected a number from {low} to {high}")


def options(config: OpenImagesConfig) -> dict[str, Any]:
    """The fields of ``config`` that determine the dataset, as JSON; caption files are given by their MD5."""
    fields = ("release", "kept", "seed", "short_side", "quality")
    values = {name: getattr(config, name) for name in fields} | {
        "bank": "+".join(map(md5_of, [config.bank] if config.bank else bank.files(config.release))),
        "decisions": "+".join(sorted(map(md5_of, config.decisions))) or "none",
    }
    if removed := taken_down(config.takedown):  # datasets that were built without a list do not have this option
        values["takedown"] = hashlib.md5("\n".join(sorted(removed)).encode()).hexdigest()
    return values


def taken_down(path: Path | None = None) -> frozenset[str]:
    """The image ids of the published takedown list, and of the one at ``path``.

    A list has an image id on each line; ``#`` starts a comment. Raises UserError for any other line.
    """
    removed: set[str] = set()
    for place in (TAKEDOWN, *filter(None, [path])):
        with reading_csv(place):
            lines = place.read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines, 1):
            image_id = line.partition("#")[0].strip()
            if image_id and not IMAGE_ID.fullmatch(image_id):
                raise UserError(
                    f"{place}:{number}: {image_id[:80]!r}; expected an image id of 16 hexadecimal digits in lower case"
                )
            removed.add(image_id)
    return frozenset(removed - {""})


@dataclasses.dataclass(frozen=True)
class Plan:
    """A planned build: bucket files in ``scratch``, held-out triplets, and ``facts`` for the metadata and card."""

    config: OpenImagesConfig
    images: Path
    scratch: Path
    digits: int
    held_out: frozenset[Triplet]
    facts: dict[str, Any]

    @property
    def prefixes(self) -> list[str]:
        """The names of the buckets."""
        return Buckets(self.scratch, "splits", self.digits).prefixes

    def bucket(self, split: str, prefix: str) -> Iterator[tuple[AnnotatedImage, Attribution | None]]:
        """The images of ``split`` whose ids start with ``prefix``, with the relations that this dataset keeps.

        The attribution is None if Open Images has no metadata for the image.
        """
        rows, assigned, attributed = (Buckets(self.scratch, name, self.digits) for name in _BUCKETS)
        chosen = {image_id for image_id, image_split in assigned.read(prefix) if image_split == split}
        authors = attribution.attributions(attributed, prefix)
        for image in annotation_rows.images(rows, prefix):
            if image.image_id in chosen:
                relations = (r for r in image.relations if _keeps(self.config, self.held_out, split, r.triplet))
                yield dataclasses.replace(image, relations=tuple(relations)), authors.get(image.image_id)

    def exchanges(self, prefix: str) -> dict[str, list[Exchange]]:
        """Image id -> its bindings and positions, for images whose ids start with ``prefix``."""
        found: dict[str, list[Exchange]] = collections.defaultdict(list)
        for image_id, kind, true, false in Buckets(self.scratch, _EXCHANGES, self.digits).read(prefix):
            found[image_id].append(Exchange(cast(Kind, kind), facts_of(true), facts_of(false)))
        return found


def _keeps(config: OpenImagesConfig, held_out: frozenset[Triplet], split: str, triplet: Triplet) -> bool:
    if split in _TESTS and config.release == "v6" and triplet not in _described(config.bank):
        return False
    return _KEPT[config.kept](triplet) and (triplet in held_out) == (split == splits.UNSEEN)


@functools.cache
def _described(path: Path | None) -> frozenset[Triplet]:
    """The triplets of a caption bank for V6. The grammar describes the others, in words that give the label away."""
    return frozenset(bank.load(path, "v6"))


def make(config: OpenImagesConfig, annotations: Path, images: Path, folder: Path) -> Plan:
    """Plans a build; writes rejected rows (``rejected-*.csv``) to ``folder`` and bucket files below it.

    The held-out triplets and the split of an image do not depend on ``kept``, so datasets of the same release and seed
    can be combined for training and testing. The held-out triplets do not depend on which photos exist either. Raises
    UserError for files that are missing or malformed.
    """
    release = releases.RELEASES[config.release]
    inputs = releases.locate(release, annotations, official=config.official)
    rows_path = annotations / release.rows.name
    digits = annotation_rows.bucket_digits(rows_path)
    scratch = folder / "buckets"
    scratch.mkdir()
    rows, assigned, attributed = (Buckets(scratch, name, digits) for name in _BUCKETS)

    vocabulary = Vocabulary.read(annotations, release)
    rejected = Rejects(folder / "rejected-rows.csv")
    annotation_rows.spool(rows_path, vocabulary, rows, rejected)
    rejected.close(config.max_rejected)
    annotated = (image for prefix in rows.prefixes for image in annotation_rows.images(rows, prefix))
    survey = Survey.from_images((image.image_id, image.triplets) for image in annotated)

    usable, refused = _usable_photos(survey.image_ids, images)
    if refused.total() > config.max_missing * len(survey.image_ids):
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(refused.items()))
        raise UserError(
            f"{images}: {refused.total():,} of {len(survey.image_ids):,} annotated images have no usable photo "
            f"({kinds}), more than the share --max_missing {config.max_missing:g}; fetch them with "
            "`python -m tfds_naturel.open_images.fetch`"
        )
    held_out = splits.hold_out(survey.count(set(survey.image_ids)), len(survey.image_ids), config.seed)
    split_of, dropped = _assign(config, survey, usable, held_out, taken_down(config.takedown))
    assigned.write(split_of.items())

    rejected_boxes, boxed = Rejects(folder / "rejected-boxes.csv"), Buckets(scratch, "boxes", digits)
    boxes.spool(annotations / release.boxes.name, vocabulary.classes, split_of.keys(), boxed, rejected_boxes)
    rejected_boxes.close(config.max_rejected)
    exchanged = _exchanges(
        config, _with_boxes(rows, boxed), split_of, held_out, exchanges.Listed(frozenset(survey.triplets))
    )
    Buckets(scratch, _EXCHANGES, digits).write(
        (image_id, exchange.kind, name_of(exchange.true), name_of(exchange.false))
        for of_split in exchanged.values()
        for image_id, found in of_split.items()
        for exchange in found
    )

    rejected_metadata = Rejects(folder / "rejected-metadata.csv")
    attribution.spool(annotations / release.images.name, split_of.keys(), attributed, rejected_metadata)
    rejected_metadata.close(config.max_rejected)

    facts = {
        "inputs": inputs,
        "rows": {"valid": rejected.accepted, "rejected": dict(rejected.counts)},
        "boxes": {"valid": rejected_boxes.accepted, "rejected": dict(rejected_boxes.counts)},
        "images": {"annotated": len(survey.image_ids), "refused": dict(refused), "dropped": dict(dropped)},
        "unattributed": len(split_of) - sum(len(attributed.read(prefix)) for prefix in attributed.prefixes),
        "held_out": sorted(map(str, held_out)),
        "untested": _untested(config, survey),
        "splits": _count(config, survey, split_of, held_out),
        "exchanges": {split: exchanges.count(of_split) for split, of_split in exchanged.items()},
    }
    return Plan(config, images, scratch, digits, held_out, facts)


def _with_boxes(rows: Buckets, boxed: Buckets) -> Iterator[AnnotatedImage]:
    """All annotated images, with what the box file says of their classes."""
    for prefix in rows.prefixes:
        clear = boxes.clear(boxed, prefix)
        for image in annotation_rows.images(rows, prefix):
            yield dataclasses.replace(image, clear=clear.get(image.image_id, {}))


def _usable_photos(image_ids: Sequence[str], folder: Path) -> tuple[dict[str, Photo], collections.Counter[str]]:
    """The usable photos in ``folder``, and counts of the others by reason. Photos in the journal are not opened."""
    entries = journal.read(folder / "journal.csv")
    checked: dict[str, Photo | str] = {}  # a string is the reason why the photo is refused
    unknown = []
    for image_id in image_ids:
        path, entry = folder / f"{image_id}.jpg", entries.get(image_id)
        if not path.is_file():
            checked[image_id] = entry.status if entry and entry.photo is None else "missing"
        elif path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            checked[image_id] = "symlink"
        elif entry and entry.photo and entry.photo.bytes == path.stat().st_size:
            checked[image_id] = entry.photo
        else:
            unknown.append(image_id)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(unknown), _BATCH):
            batch = unknown[start : start + _BATCH]
            checked |= zip(batch, pool.map(lambda image_id: _check(folder / f"{image_id}.jpg"), batch), strict=True)
    copies = collections.Counter(photo for photo in checked.values() if isinstance(photo, Photo))
    usable = {key: photo for key, photo in checked.items() if isinstance(photo, Photo) and copies[photo] <= _MAX_COPIES}
    refused = collections.Counter(reason for reason in checked.values() if isinstance(reason, str))
    refused["placeholder"] = copies.total() - len(usable)
    return usable, +refused


def _check(path: Path) -> Photo | str:
    try:
        return photos.inspect_file(path)
    except BadPhoto as error:
        return error.kind


def _assign(
    config: OpenImagesConfig,
    survey: Survey,
    usable: Mapping[str, Photo],
    held_out: frozenset[Triplet],
    removed: Container[str],
) -> tuple[dict[str, str], collections.Counter[str]]:
    """The split of every image that is built, and counts of the dropped images by reason. Images in ``removed`` are
    dropped after grouping, so that no other image changes its split.

    In a group of near-duplicates where any image shows a held-out triplet, the images that show one go to
    ``test_unseen_triplets``; the others are dropped, since in training they would leak near-duplicates.
    """
    rows = [n for n, image_id in enumerate(survey.image_ids) if image_id in usable]
    names = [survey.image_ids[n] for n in rows]
    groups = splits.near_duplicates(np.array([usable[name].phash for name in names], np.uint64))
    shows_held = np.array([not held_out.isdisjoint(survey.triplets_of(n)) for n in rows], bool)
    unseen_groups = set(groups[shows_held].tolist())
    split_of: dict[str, str] = {}
    dropped: collections.Counter[str] = collections.Counter()
    for n, name, group, is_unseen in zip(rows, names, groups.tolist(), shows_held.tolist(), strict=True):
        if name in removed:
            dropped["taken down"] += 1
            continue
        if group in unseen_groups and not is_unseen:
            dropped["near-duplicate of a held-out image"] += 1
            continue
        split = splits.UNSEEN if is_unseen else splits.split_of(config.seed, names[group])
        if any(_keeps(config, held_out, split, triplet) for triplet in survey.triplets_of(n)):
            split_of[name] = split
        else:
            dropped["no triplet of this dataset"] += 1
    return split_of, dropped


def _untested(config: OpenImagesConfig, survey: Survey) -> list[str]:
    """The triplets that are left out of the test splits, since only the grammar describes them."""
    shown = set(survey.triplets) if config.release == "v6" else set()
    return sorted(str(triplet) for triplet in shown - _described(config.bank) if _KEPT[config.kept](triplet))


def _count(
    config: OpenImagesConfig, survey: Survey, split_of: Mapping[str, str], held_out: frozenset[Triplet]
) -> dict[str, Any]:
    """For every split, the number of images, and the number of images per triplet."""
    counts = {}
    for split in SPLITS:
        names = {name for name, image_split in split_of.items() if image_split == split}
        by_triplet = {t: n for t, n in survey.count(names).items() if _keeps(config, held_out, split, t)}
        counts[split] = {"images": len(names), "triplets": {str(t): by_triplet[t] for t in sorted(by_triplet)}}
    return counts


def _exchanges(
    config: OpenImagesConfig,
    annotated: Iterable[AnnotatedImage],
    split_of: Mapping[str, str],
    held_out: frozenset[Triplet],
    listed: exchanges.Listed,
) -> dict[str, dict[str, list[Exchange]]]:
    """For each split, image id -> bindings and positions, balanced within the split."""
    candidates: dict[str, list[tuple[str, Exchange]]] = {split: [] for split in SPLITS}
    for image in annotated:
        if split := split_of.get(image.image_id):
            found = exchanges.bindings(image, listed, functools.partial(_keeps, config, held_out, split))
            places = () if config.kept == "attributes" else exchanges.positions(image)
            candidates[split] += ((image.image_id, exchange) for exchange in (*found, *places))
    return {split: exchanges.balanced(of_split, config.seed) for split, of_split in candidates.items()}
