"""Reviewers' decisions about captions, as the review page exports them."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfds_naturel.errors import UserError
from tfds_naturel.schema import Triplet

COLUMNS = ("triplet", "text", "decision")
DECISIONS = ("accept", "reject", "")  # empty: not judged

Key = tuple[Triplet, str]  # a decision is about the words, in whichever pair they are


def verdicts(path: Path) -> dict[Key, bool]:
    """(triplet, caption text) -> accepted, for every caption judged in a CSV with ``COLUMNS`` and any others.

    A caption is rejected when any of its rows rejects it. Raises UserError that names the row and what was expected.
    """
    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise UserError(f"{path}:1: columns {reader.fieldnames}; without {missing}")
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
    """The (triplet, caption text) that a reviewer rejected. Raises UserError as ``verdicts`` does."""
    return frozenset(key for key, is_accepted in verdicts(path).items() if not is_accepted)


def kappa(first: Mapping[Key, bool], second: Mapping[Key, bool]) -> tuple[float, int]:
    """(Cohen's kappa, captions that both judged): agreement beyond chance (Cohen 1960). NaN without any in common.

    1 when both gave all captions the same verdict.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return float("nan"), 0
    a, b = (np.array([judged[key] for key in common], float) for judged in (first, second))
    observed = float(np.mean(a == b))
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (1.0 if chance == 1 else (observed - chance) / (1 - chance)), len(common)
