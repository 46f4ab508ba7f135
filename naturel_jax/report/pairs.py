"""One benchmark's items as scored for two models, from the results of an evaluation."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from naturel_jax.evaluators.results import OUTCOME
from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.errors import UserError

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
    pattern: str


@functools.cache
def _phrases() -> re.Pattern[str]:
    words = {w for r in RELATIONS.values() for entry in (*r.words, *r.back) for w in _forms(entry)}
    longest_first = sorted(words, key=lambda w: (-len(w), w))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)


def _forms(entry: str) -> list[str]:
    """``hold/holds/holding/held/held`` -> its forms; a preposition -> itself."""
    return [form for form in entry.split("/") if form]


def pattern(caption: str, relation: str) -> str:
    """How the caption words its relation: its longest relation phrase, or the benchmark's own name for it, or
    ``other``.
    """
    phrases = _phrases().findall(caption)
    if phrases:
        return max(phrases, key=len).lower()
    return relation if relation and relation in caption else "other"


def pair_up(rows_a: Sequence[dict[str, Any]], rows_b: Sequence[dict[str, Any]], outcome: str) -> list[Paired]:
    """Items that both models were scored on. Raises UserError for an outcome that the benchmark does not have."""
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
                pattern(captions[0], tags.get("relation", "")) if captions else "other",
            )
        )
    return pairs
