"""Reviewers' decisions on captions, as exported by the review page."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_csv
from tfds_naturel.common.schema import Triplet

COLUMNS = ("triplet", "text", "decision")
DECISIONS = ("accept", "reject", "")  # empty: not judged

Key = tuple[Triplet, str]  # a decision applies to a text, whichever pair it is in


def verdicts(path: Path) -> dict[Key, bool]:
    """(triplet, caption text) -> accepted, for every judged caption in a CSV with at least the columns ``COLUMNS``.

    A caption is rejected if any of its rows rejects it. Raises UserError with the row and what was expected.
    """
    with reading_csv(path), path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise UserError(f"{path}:1: columns {reader.fieldnames}; missing {missing}")
        accepted: dict[Key, bool] = {}
        for row in reader:
            if row["decision"] not in DECISIONS:
                raise UserError(
                    f"{path}:{reader.line_num}: decision {row['decision']!r}; expected accept, reject or nothing"
                )
            if row["decision"]:
                try:
                    key = (Triplet.parse(row["triplet"]), row["text"])
                except ValueError as error:
                    raise UserError(f"{path}:{reader.line_num}: {error}") from error
                accepted[key] = row["decision"] == "accept" and accepted.get(key, True)
    return accepted


def rejected(path: Path) -> frozenset[Key]:
    """The (triplet, caption text) keys that a reviewer rejected. Raises UserError like ``verdicts``."""
    return frozenset(key for key, is_accepted in verdicts(path).items() if not is_accepted)


def alpha(annotators: Sequence[Mapping[Key, bool]]) -> tuple[float, int]:
    """(Krippendorff's alpha, number of captions judged by two or more): agreement beyond chance of any number of
    annotators, who need not have judged the same captions (nominal alpha; Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability").

    Alpha is NaN if no caption was judged twice, and 1 if all judgements of such captions are the same.
    """
    judged = Counter(key for verdicts in annotators for key in verdicts)
    accepts = Counter(key for verdicts in annotators for key, is_accepted in verdicts.items() if is_accepted)
    common = [key for key, number in judged.items() if number > 1]
    if not common:
        return float("nan"), 0
    # Ordered pairs of judgements of one caption that differ, each caption weighted by 1 / (judgements - 1).
    differ = sum(2 * accepts[key] * (judged[key] - accepts[key]) / (judged[key] - 1) for key in common)
    accepted, total = sum(accepts[key] for key in common), sum(judged[key] for key in common)
    by_chance = 2 * accepted * (total - accepted) / (total - 1)
    return (1.0 if by_chance == 0 else 1 - differ / by_chance), len(common)
