"""One benchmark's items as models score them, from the results of an evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from naturel_jax.evaluators.results import OUTCOME
from tfds_naturel.common.errors import UserError

# An item is grouped by the first of these that it has.
GROUP_TAGS = ("relation", "attributes", "subset", "collapsed_tag", "phenomenon", "source")


@dataclasses.dataclass(frozen=True)
class Judged:
    """One item under some models. ``right``: for each outcome whether each model is right, () if it is not scored by
    that outcome; ``cosines``: those of each model, row-major [images, captions]."""

    id: str
    images: tuple[str, ...]
    boxes: tuple[tuple[int, ...] | None, ...]
    captions: tuple[str, ...]
    right: tuple[tuple[bool, ...], ...]
    cosines: tuple[tuple[float, ...], ...]
    group: str

    @property
    def a(self) -> bool:
        """Whether the first model is right, by the first outcome."""
        return self.right[0][0]

    @property
    def b(self) -> bool:
        """Whether the second model is right, by the first outcome."""
        return self.right[0][1]


def judge(models: Sequence[Sequence[dict[str, Any]]], outcomes: Sequence[str]) -> list[Judged]:
    """The items that all models were scored on by one of ``outcomes``. ``models``: rows of ``items.parquet`` of each.
    Raises UserError for an outcome that the benchmark does not have, and for items of one id with different captions:
    the models were evaluated on different files."""
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
        right = tuple(_right(same, OUTCOME + outcome) for outcome in outcomes)
        if len(same) < len(models) or not any(right):
            continue
        if other := next((one["captions"] for one in same if one["captions"] != row["captions"]), None):
            raise UserError(
                f"item {row['id']!r:.80} has the captions {row['captions']!r:.200} in the results of one model and "
                f"{other!r:.200} in those of another: evaluate all again on the same files"
            )
        tags, captions = row["tags"], tuple(row["captions"] or ())
        group = next((str(tags[tag]) for tag in GROUP_TAGS if tags.get(tag)), "all")
        boxes = tuple(tuple(box) if box else None for box in row["boxes"])
        cosines = tuple(tuple(one["cosines"] or ()) for one in same)
        found.append(Judged(row["id"], tuple(row["images"]), boxes, captions, right, cosines, group))
    return found


def _right(rows: Sequence[dict[str, Any]], column: str) -> tuple[bool, ...]:
    """Whether each model is right; () if the outcome is missing for one."""
    values = [row.get(column) for row in rows]
    if any(value is None or math.isnan(value) for value in values):
        return ()
    return tuple(value == 1 for value in values)
