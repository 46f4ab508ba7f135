"""Reviewers' decisions on captions, as exported by the review page."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import dict_rows, reading_csv
from tfds_naturel.common.schema import Triplet

COLUMNS = ("triplet", "text", "decision")
DECISIONS = ("accept", "reject", "")  # empty: not judged

Key = tuple[Triplet, str]  # a decision applies to a text, whichever pair it is in


def verdicts(path: Path) -> dict[Key, bool]:
    """(triplet, caption text) -> accepted, for every judged caption in a CSV with at least the columns ``COLUMNS``.

    A caption is rejected if any of its rows rejects it. Raises UserError with the row and what was expected.
    """
    with reading_csv(path), path.open(encoding="utf-8-sig", newline="") as f:
        names, rows = dict_rows(f)
        if missing := [column for column in COLUMNS if column not in names]:
            raise UserError(f"{path}:1: columns {names}; missing {missing}")
        accepted: dict[Key, bool] = {}
        for number, row in enumerate(rows, 2):
            if missing := [column for column in COLUMNS if column not in row]:
                raise UserError(f"{path}:{number}: the row has no {missing[0]}")
            if row["decision"] not in DECISIONS:
                raise UserError(f"{path}:{number}: decision {row['decision']!r}; expected accept, reject or nothing")
            if row["decision"]:
                try:
                    key = (Triplet.parse(row["triplet"]), row["text"])
                except ValueError as error:
                    raise UserError(f"{path}:{number}: {error}") from error
                accepted[key] = row["decision"] == "accept" and accepted.get(key, True)
    return accepted


def rejected(path: Path) -> frozenset[Key]:
    """The (triplet, caption text) keys that a reviewer rejected. Raises UserError like ``verdicts``."""
    return frozenset(key for key, is_accepted in verdicts(path).items() if not is_accepted)


def alpha(annotators: Sequence[Mapping[Any, Hashable]]) -> tuple[float, int]:
    """(Krippendorff's alpha, number of items judged by two or more): agreement beyond chance of any number of
    annotators (item -> value), who need not have judged the same items (nominal alpha; Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability").

    Alpha is NaN if no item was judged twice, and 1 if all judgements of such items are the same.
    """
    values: dict[Any, Counter[Hashable]] = {}
    for judged in annotators:
        for key, value in judged.items():
            values.setdefault(key, Counter())[value] += 1
    common = [counts for counts in values.values() if counts.total() > 1]
    if not common:
        return float("nan"), 0
    # Ordered pairs of judgements of one item that differ, each item weighted by 1 / (judgements - 1).
    differ = sum(_differing(counts) / (counts.total() - 1) for counts in common)
    every = sum(common, Counter())
    by_chance = _differing(every) / (every.total() - 1)
    return (1.0 if by_chance == 0 else 1 - differ / by_chance), len(common)


def _differing(counts: Counter[Hashable]) -> int:
    return counts.total() ** 2 - sum(count**2 for count in counts.values())
