"""Open Images' box file: which classes of a photo have one box, of one real thing; spooled like the annotations."""

import collections
from collections.abc import Container, Mapping
from pathlib import Path

from tfds_naturel.open_images.annotations import Buckets, Malformed, Rejects, parsed

COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
_FLAGS = frozenset({"0", "1", "-1"})  # no, yes, unknown


def spool(
    path: Path, classes: Mapping[str, str], image_ids: Container[str], buckets: Buckets, rejects: Rejects
) -> None:
    """Writes the boxes of the images in ``image_ids`` to ``buckets``; malformed rows go to ``rejects``.

    ``path`` is ``train-annotations-bbox.csv`` or V6's, which has further columns. Coordinates are not read, so a box
    counts even where they are wrong. Raises UserError if the header is another.
    """
    rows = parsed(path, COLUMNS, lambda fields: _box(fields, classes), rejects)
    buckets.write(row for row in rows if row[0] in image_ids)


def _box(fields: list[str], classes: Mapping[str, str]) -> tuple[str, str, str]:
    """Image id, class, and ``1`` if the box is of one real thing, seen from outside."""
    mid, flags = fields[2], fields[10:13]
    if mid not in classes:
        raise Malformed("unknown_class", f"LabelName {mid!r}")
    if not _FLAGS.issuperset(flags):
        raise Malformed("flag", f"IsGroupOf, IsDepiction and IsInside are {','.join(flags)}; expected 0, 1 or -1")
    return fields[0], classes[mid], "1" if flags == ["0", "0", "0"] else "0"


def clear(buckets: Buckets, prefix: str) -> dict[str, dict[str, bool]]:
    """Image id -> class -> whether it is clear, for the boxes in one bucket written by ``spool``.

    A class is clear if it has one box in the photo, which is known to be no group, no depiction, and not seen from
    inside.
    """
    found: dict[str, dict[str, bool]] = collections.defaultdict(dict)
    for image_id, label, single in buckets.read(prefix):
        found[image_id][label] = label not in found[image_id] and single == "1"
    return found
