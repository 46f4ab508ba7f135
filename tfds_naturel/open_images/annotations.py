"""Reads Open Images' visual relationships: official CSV rows in, one record per image out, in bounded memory.

Rows of an image are scattered over the file, so they are spooled to buckets on disk by the first digits of the image
id; each bucket is small enough to be sorted in memory. Malformed rows are counted by kind and listed with their line
numbers, never dropped silently.
"""

import collections
import csv
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_csv
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.releases import Release

COLUMNS = (
    *("ImageID", "LabelName1", "LabelName2"),
    *("XMin1", "XMax1", "YMin1", "YMax1", "XMin2", "XMax2", "YMin2", "YMax2"),
    "RelationshipLabel",
)
IMAGE_ID = re.compile(r"[0-9a-f]{16}")

MAX_LINE = 4096  # bytes; official rows have about 120
BUCKET_BYTES = 8 << 20
_T = TypeVar("_T")


class Box(NamedTuple):
    """Coordinates in [0, 1] relative to the image's width and height."""

    xmin: float
    xmax: float
    ymin: float
    ymax: float

    @property
    def area(self) -> float:
        return (self.xmax - self.xmin) * (self.ymax - self.ymin)


class Annotation(NamedTuple):
    """One valid annotation; for an attribute (relation ``is``) ``object_box`` repeats ``subject_box``."""

    image_id: str
    triplet: Triplet
    subject_box: Box
    object_box: Box


class Relation(NamedTuple):
    """A related pair: its triplet, and the indices of both objects in the image's objects (-1 for an attribute)."""

    triplet: Triplet
    subject_index: int
    object_index: int


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """All annotations of one image. Duplicate rows are merged; a triplet of several pairs has several relations.

    ``clear``: the classes with boxes in the box file, and whether a name of the class can only mean one thing (see
    ``boxes.clear``).
    """

    image_id: str
    objects: tuple[tuple[str, Box], ...]
    relations: tuple[Relation, ...]
    clear: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def triplets(self) -> tuple[Triplet, ...]:
        """The distinct triplets, in the order of ``relations``."""
        return tuple(dict.fromkeys(relation.triplet for relation in self.relations))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Display names by machine id (``/m/01yrx``), and the relation labels."""

    classes: dict[str, str]
    attributes: dict[str, str]
    relations: frozenset[str]

    @classmethod
    def read(cls, folder: Path, release: Release) -> "Vocabulary":
        """Reads the description files of ``release`` (two columns, no header). Raises UserError for an invalid line."""
        files = (release.classes, release.attributes, release.relations)
        classes, attributes, relations = (_descriptions(folder / file.name) for file in files)
        return cls(classes, attributes, frozenset(relations))


def _descriptions(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    with reading_csv(path), path.open(encoding="utf-8-sig", newline="") as f:
        for number, row in enumerate(csv.reader(f), 1):
            if len(row) != 2 or not all(row) or not row[1].isprintable() or "|" in row[1] or row[0] in names:
                raise UserError(
                    f"{path}:{number}: {row!r}; expected a unique id and a name without '|': '/m/01yrx,Cat'"
                )
            names[row[0]] = row[1]
    return names


class Malformed(ValueError):
    """A row that cannot be used; rejected rows are counted by ``kind``."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


class Rejects:
    """Counts rejected rows by kind and writes each to a CSV (file, line, kind, detail, text)."""

    def __init__(self, path: Path):
        self.path = path
        self.counts: collections.Counter[str] = collections.Counter()
        self.accepted = 0
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["file", "line", "kind", "detail", "text"])

    def add(self, file: str, line: int, error: Malformed, text: str) -> None:
        """Counts a rejected row and appends it to the list."""
        self.counts[error.kind] += 1
        self._writer.writerow([file, line, error.kind, str(error), escape.cell(text[:200])])

    def close(self, max_share: float = 1.0) -> None:
        """Closes the file. Raises UserError if more than ``max_share`` of all rows were rejected."""
        self._file.close()
        rejected = self.counts.total()
        if rejected > max_share * (rejected + self.accepted):
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.counts.items()))
            raise UserError(
                f"{rejected:,} of {rejected + self.accepted:,} rows are malformed ({kinds}), more than the share "
                f"--max_rejected {max_share:g}; {self.path} lists them with their line numbers"
            )


def read_rows(path: Path, vocabulary: Vocabulary, rejects: Rejects) -> Iterator[Annotation]:
    """Streams the valid rows of an annotation file with the official columns; raises what ``parsed`` raises."""
    return parsed(path, COLUMNS, lambda fields: parse_row(fields, vocabulary), rejects)


def parsed(path: Path, columns: Sequence[str], parse: Callable[[list[str]], _T], rejects: Rejects) -> Iterator[_T]:
    """Streams what ``parse`` makes of the fields of each line; those for which it raises Malformed go to ``rejects``.

    Further columns may follow ``columns``. Raises UserError if the header has others.
    """
    with path.open("rb") as f:
        header = f.readline(MAX_LINE).decode("utf-8-sig", "replace").rstrip("\r\n").split(",")
        if header[: len(columns)] != [*columns]:
            raise UserError(f"{path}:1: columns {','.join(header)!r}; expected {','.join(columns)!r}")
        for number, line in enumerate(_lines(f), 2):
            try:
                row = parse(_fields(line, len(header)))
            except Malformed as error:
                rejects.add(path.name, number, error, line.decode("utf-8", "replace").rstrip("\r\n"))
            else:
                rejects.accepted += 1
                yield row


def _lines(f: IO[bytes]) -> Iterator[bytes]:
    """The lines of ``f``, each truncated to ``MAX_LINE`` bytes, so a file without newlines cannot fill the memory."""
    while line := f.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith(b"\n"):
            line = f.readline(MAX_LINE)


def _fields(line: bytes, columns: int) -> list[str]:
    """The fields of a CSV line that begins with an image id."""
    try:
        fields = line.decode().rstrip("\r\n").split(",")
    except UnicodeDecodeError as error:
        raise Malformed("encoding", f"not UTF-8: {error.reason}") from error
    if len(fields) != columns:
        raise Malformed("columns", f"{len(fields)} columns, expected {columns}")
    if not IMAGE_ID.fullmatch(fields[0]):
        raise Malformed("image_id", f"ImageID {fields[0]!r}, expected 16 hexadecimal digits")
    return fields


def parse_row(fields: list[str], vocabulary: Vocabulary) -> Annotation:
    """One annotation from the fields of a CSV line. Raises Malformed."""
    image_id, subject_id, object_id, *coordinates, relation = fields[: len(COLUMNS)]
    if relation not in vocabulary.relations:
        raise Malformed("unknown_relation", f"RelationshipLabel {relation!r}")
    if subject_id not in vocabulary.classes:
        raise Malformed("unknown_class", f"LabelName1 {subject_id!r}")
    is_attribute = relation == "is"
    objects, kind = (vocabulary.attributes, "attribute") if is_attribute else (vocabulary.classes, "class")
    if object_id not in objects:
        raise Malformed(f"unknown_{kind}", f"LabelName2 {object_id!r}")
    triplet = Triplet(vocabulary.classes[subject_id], relation, objects[object_id])
    return Annotation(image_id, triplet, _box(coordinates[:4], "1"), _box(coordinates[4:], "2"))


def _box(texts: list[str], suffix: str) -> Box:
    try:
        box = Box(*map(float, texts))
    except ValueError as error:
        raise Malformed("number", f"box {suffix}: {','.join(texts)} is not four numbers") from error
    if not all(map(math.isfinite, box)):
        raise Malformed("number", f"box {suffix}: {','.join(texts)} is not finite")
    if min(box) < 0 or max(box) > 1:
        raise Malformed("box_outside", f"box {suffix}: {','.join(texts)} is not within [0, 1]")
    if box.xmin >= box.xmax or box.ymin >= box.ymax:
        raise Malformed("box_inverted", f"box {suffix}: {','.join(texts)} has no positive width and height")
    return box


def merge(image_id: str, rows: list[Annotation]) -> AnnotatedImage:
    """Merges one image's rows, in any order, into objects and relations.

    No box is hashed by itself: the hashes of floats are known, so boxes can be made that all have the same. That of the
    label, which is hashed before, is another in every process.
    """
    objects: dict[tuple[str, float, float, float, float], int] = {}
    relations = []
    for row, _ in itertools.groupby(sorted(rows)):
        subject = objects.setdefault((row.triplet.subject, *row.subject_box), len(objects))
        target = -1
        if row.triplet.relation != "is":
            target = objects.setdefault((row.triplet.object, *row.object_box), len(objects))
        relations.append(Relation(row.triplet, subject, target))
    return AnnotatedImage(image_id, tuple((label, Box(*box)) for label, *box in objects), tuple(relations))


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Files of tab-separated lines in ``folder``, one for each prefix of ``digits`` digits of the image id.

    Every line starts with an image id.
    """

    folder: Path
    name: str
    digits: int

    @property
    def prefixes(self) -> list[str]:
        """The bucket names, in image id order."""
        return ["".join(digits) for digits in itertools.product("0123456789abcdef", repeat=self.digits)]

    def _path(self, prefix: str) -> Path:
        return self.folder / f"{self.name}-{prefix}.tsv"

    def write(self, lines: Iterable[tuple[str, ...]]) -> None:
        """Distributes ``lines`` over the files, replacing existing files."""
        # Python 3.14's buffers have 128 KiB, and there are up to 256 files.
        files = {prefix: self._path(prefix).open("w", 8192, encoding="utf-8") for prefix in self.prefixes}
        try:
            for fields in lines:
                files[fields[0][: self.digits]].write("\t".join(fields) + "\n")
        finally:
            for file in files.values():
                file.close()

    def read(self, prefix: str) -> list[list[str]]:
        """The lines of one bucket, in the order they were written."""
        with self._path(prefix).open(encoding="utf-8", newline="\n") as f:
            return [line.rstrip("\n").split("\t") for line in f]


def bucket_digits(path: Path) -> int:
    """Number of digits of the image id that split the rows in ``path`` into buckets of about ``BUCKET_BYTES``."""
    return min(2, math.ceil(math.log(max(path.stat().st_size / BUCKET_BYTES, 1), 16)))


def spool(path: Path, vocabulary: Vocabulary, buckets: Buckets, rejects: Rejects) -> None:
    """Writes the valid rows of an annotation file to ``buckets``; raises what ``read_rows`` raises."""
    buckets.write(
        (row.image_id, *row.triplet, *map(repr, row.subject_box), *map(repr, row.object_box))
        for row in read_rows(path, vocabulary, rejects)
    )


def images(buckets: Buckets, prefix: str) -> Iterator[AnnotatedImage]:
    """The images in one bucket written by ``spool``, sorted by id."""
    by_image: dict[str, list[Annotation]] = collections.defaultdict(list)
    for image_id, subject, relation, object_, *coordinates in buckets.read(prefix):
        numbers = [float(text) for text in coordinates]
        triplet = Triplet(subject, relation, object_)
        by_image[image_id].append(Annotation(image_id, triplet, Box(*numbers[:4]), Box(*numbers[4:])))
    for image_id in sorted(by_image):
        yield merge(image_id, by_image[image_id])
