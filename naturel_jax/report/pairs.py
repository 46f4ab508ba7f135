"""One benchmark's items as models score them, from the results of an evaluation."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from naturel_jax.benchmarks.own import TRUE
from naturel_jax.evaluators.results import OUTCOME
from tfds_naturel.common.errors import UserError

# An item is grouped by the first of these that it has.
GROUP_TAGS = ("relation", "attributes", "subset", "collapsed_tag", "phenomenon", "source")
_HASH = "hash of captions"


@dataclasses.dataclass(frozen=True)
class Judged:
    """One item under some models. ``right``: for each outcome whether each model is right, wholly if the outcome is a
    share, () if it is not scored by that outcome; ``cosines``: those of each model, row-major [images, captions];
    ``unit``: the same for items that share the first outcome."""

    id: str
    images: tuple[str, ...]
    boxes: tuple[tuple[int, ...] | None, ...]
    captions: tuple[str, ...]
    right: tuple[tuple[bool, ...], ...]
    cosines: tuple[tuple[float, ...], ...]
    group: str
    unit: str

    @property
    def a(self) -> bool:
        """Whether the first model is right, by the first outcome."""
        return self.right[0][0]

    @property
    def b(self) -> bool:
        """Whether the second model is right, by the first outcome."""
        return self.right[0][1]


def judge(models: Sequence[Sequence[dict[str, Any]]], outcomes: Sequence[str], shared: str = "") -> list[Judged]:
    """The items that all models were scored on by one of ``outcomes``. ``models``: rows of ``items.parquet`` of each;
    ``shared``: the tag that items have in common which share the first outcome.
    Raises UserError for an outcome that the benchmark does not have, and for items of one id that are not the same
    (``asked``): the models were evaluated on different files."""
    first, *others = models
    known = [name.removeprefix(OUTCOME) for name in (first[0] if first else {}) if name.startswith(OUTCOME)]
    if unknown := [outcome for outcome in outcomes if outcome not in known]:
        raise UserError(
            f"--outcome {unknown[0]!r} is not an outcome of this benchmark; expected one of: {', '.join(known)}"
        )
    by_id = [{row["id"]: row for row in rows} for rows in others]
    found = []
    for row in first:
        same = [row, *(rows[row["id"]] for rows in by_id if row["id"] in rows)]
        right = tuple(are_right(same, OUTCOME + outcome) for outcome in outcomes)
        if len(same) < len(models) or not any(right):
            continue
        mine = asked(row)
        for other in map(asked, same[1:]):
            if part := _difference(mine, other):
                raise UserError(
                    f"item {row['id']!r:.80} has the {part} {mine[part]!r:.200} in the results of one model and "
                    f"{other[part]!r:.200} in those of another: evaluate all again on the same files"
                )
        tags, captions = row["tags"], tuple(row["captions"] or ())
        group = next((str(tags[tag]) for tag in GROUP_TAGS if tags.get(tag)), "all")
        boxes = tuple(tuple(box) if box else None for box in row["boxes"])
        cosines = tuple(tuple(one["cosines"] or ()) for one in same)
        unit = str(tags.get(shared) or row["id"])
        found.append(Judged(row["id"], tuple(row["images"]), boxes, captions, right, cosines, group, unit))
    return found


def are_right(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[bool, ...]:
    """Whether each model is right; () if the outcome is missing for one."""
    values = [row.get(column) for row in rows]
    if any(value is None or math.isnan(value) for value in values):
        return ()
    return tuple(value == 1 for value in values)


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """What an item shows and asks, by ``row`` of ``items.parquet``; the same in whatever folder its files are. Ids are
    often running numbers, and are those of other items once a file has changed."""
    return {
        "images": [re.split("[/!]", key)[-1] for key in row["images"]],
        "boxes": row["boxes"],
        "label": row["tags"].get("label"),
        TRUE: row["tags"].get(TRUE),
        "captions": row["captions"],
        _HASH: row["captions_hash"],
    }


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The first part in which what is ``asked`` differs; "" if it is the same."""
    return next((part for part in a if a[part] != b[part]), "")


def alike(rows: Iterable[dict[str, Any]], known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that ask what those with the same id of earlier models did. ``known``: id -> what was ``asked`` first,
    to which those of new ids are added."""
    now = [(row, asked(row)) for row in rows]
    return [row for row, mine in now if not _difference(known.setdefault(row["id"], mine), mine)]
