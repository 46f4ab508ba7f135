"""Reviewers' decisions about captions, as the review page exports them."""

import csv
from pathlib import Path

from tfds_naturel.schema import Triplet

COLUMNS = ("triplet", "text", "decision")
DECISIONS = ("accept", "reject", "")  # empty: not looked at


def rejected(path: Path) -> frozenset[tuple[Triplet, str]]:
    """The (triplet, caption text) that a reviewer rejected, in a CSV with ``COLUMNS`` and any others.

    A caption is out when any of its rows rejects it. Raises ValueError that names the row and what was expected.
    """
    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}:1: columns {reader.fieldnames}; without {missing}")
        found = set()
        for row in reader:
            if row["decision"] not in DECISIONS:
                raise ValueError(
                    f"{path}:{reader.line_num}: decision {row['decision']!r}; expected accept, reject or nothing"
                )
            if row["decision"] == "reject":
                found.add((Triplet.parse(row["triplet"]), row["text"]))
    return frozenset(found)
