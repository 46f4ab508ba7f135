"""Reviewers' decisions about captions: a CSV file that the review page writes and the builder reads."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfds_naturel.captions import grammar
from tfds_naturel.captions.bank import Bank
from tfds_naturel.schema import Caption, Triplet

COLUMNS = ("triplet", "pair", "polarity", "text", "decision", "reason")

Key = tuple[str, str]  # triplet and text: a decision is about the words, wherever they stand


@dataclasses.dataclass(frozen=True)
class Decision:
    accepted: bool
    reason: str


def load(path: Path) -> dict[Key, Decision]:
    """Decisions by (triplet, text). Raises ValueError that names the row for a file of another form."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            found = ", ".join(reader.fieldnames or ("an empty file",))
            raise ValueError(f"{path} row 1: found {found[:200]}, expected the columns {', '.join(COLUMNS)}")
        decisions = {}
        for number, row in enumerate(reader, 2):
            if row["decision"] not in ("accept", "reject"):
                raise ValueError(f"{path} row {number}: decision is {row['decision']!r}, expected 'accept' or 'reject'")
            decisions[row["triplet"], row["text"]] = Decision(row["decision"] == "accept", row["reason"] or "")
    return decisions


def apply(bank: Bank, decisions: Mapping[Key, Decision], seed: int) -> Bank:
    """The bank without the rejected captions. The grammar's pair takes the place of a pair that lost one of its two.

    Raises ValueError for a decision about a caption that the bank does not have.
    """
    known = {(str(c.triplet), c.text) for captions in bank.values() for c in captions}
    if strange := sorted(set(decisions) - known):
        triplet, text = strange[0]
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        raise ValueError(
            f"decision about {triplet} {text!r}{more}: the bank has no such caption; review this bank again"
        )
    rejected = {key for key, decision in decisions.items() if not decision.accepted}
    return {triplet: _replace(triplet, captions, rejected, seed) for triplet, captions in bank.items()}


def _replace(triplet: Triplet, captions: tuple[Caption, ...], rejected: set[Key], seed: int) -> tuple[Caption, ...]:
    lost = {caption.pair for caption in captions if (str(triplet), caption.text) in rejected}
    if not lost:
        return captions
    for attempt in range(100):  # until the grammar writes none of the rejected sentences
        fresh = grammar.write(triplet, np.random.default_rng([seed, attempt]))
        if not any(c.pair in lost and (str(triplet), c.text) in rejected for c in fresh):
            return tuple(new if new.pair in lost else old for old, new in zip(captions, fresh, strict=True))
    raise ValueError(
        f"{triplet}: the grammar has only rejected captions for pair {min(lost)}; write your own in the bank"
    )


def kappa(first: Mapping[Key, Decision], second: Mapping[Key, Decision]) -> tuple[float, int]:
    """(Cohen's kappa, captions that both judged): agreement beyond chance (Cohen 1960). NaN without any in common.

    1 when both gave all captions the same verdict.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return float("nan"), 0
    a, b = (np.array([judged[key].accepted for key in common], float) for judged in (first, second))
    observed = float(np.mean(a == b))
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (1.0 if chance == 1 else (observed - chance) / (1 - chance)), len(common)
