"""One benchmark's items as two models score them, from the results of an evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from naturel_jax.evaluators.results import OUTCOME
from tfds_naturel.common.errors import UserError

# An item is grouped by the first of these that it has.
GROUP_TAGS = ("relation", "attributes", "subset", "collapsed_tag", "phenomenon", "source")


@dataclasses.dataclass(frozen=True)
class Paired:
    """One item under both models. ``a`` and ``b``: whether each is right; cosines are row-major [images, captions]."""

    id: str
    images: tuple[str, ...]
    boxes: tuple[tuple[int, ...] | None, ...]
    captions: tuple[str, ...]
    a: bool
    b: bool
    cosines_a: tuple[float, ...]
    cosines_b: tuple[float, ...]
    group: str


def pair_up(rows_a: Sequence[dict[str, Any]], rows_b: Sequence[dict[str, Any]], outcome: str) -> list[Paired]:
    """The items that both models were scored on. Raises UserError for an outcome that the benchmark does not have."""
    column, others = OUTCOME + outcome, {row["id"]: row for row in rows_b}
    known = [name.removeprefix(OUTCOME) for name in (rows_a[0] if rows_a else {}) if name.startswith(OUTCOME)]
    if outcome not in known:
        raise UserError(
            f"--outcome {outcome!r} is not an outcome of this benchmark; expected one of: {', '.join(known)}"
        )
    pairs = []
    for row in rows_a:
        other = others.get(row["id"])
        if other is None or any(r[column] is None or math.isnan(r[column]) for r in (row, other)):
            continue
        tags, captions = row["tags"], tuple(row["captions"] or ())
        group = next((str(tags[tag]) for tag in GROUP_TAGS if tags.get(tag)), "all")
        pairs.append(
            Paired(
                row["id"],
                tuple(row["images"]),
                tuple(tuple(box) if box else None for box in row["boxes"]),
                captions,
                row[column] == 1,
                other[column] == 1,
                tuple(row["cosines"] or ()),
                tuple(other["cosines"] or ()),
                group,
            )
        )
    return pairs
