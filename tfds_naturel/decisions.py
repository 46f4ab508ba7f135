"""Reviewers' decisions on captions, as exported by the review page."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfds_naturel.errors import UserError
from tfds_naturel.files import reading_csv
from tfds_naturel.schema import Triplet

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
    """The (triplet, caption text) keys that a reviewer rejected. Raises UserError as ``verdicts`` does."""
    return frozenset(key for key, is_accepted in verdicts(path).items() if not is_accepted)


def kappa(first: Mapping[Key, bool], second: Mapping[Key, bool]) -> tuple[float, int]:
    """(Cohen's kappa, number of captions judged by both): agreement beyond chance (Cohen 1960).

    Kappa is NaN without common captions, and 1 if both gave every caption the same verdict.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return float("nan"), 0
    a, b = (np.array([judged[key] for key in common], float) for judged in (first, second))
    observed = float(np.mean(a == b))
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (1.0 if chance == 1 else (observed - chance) / (1 - chance)), len(common)
