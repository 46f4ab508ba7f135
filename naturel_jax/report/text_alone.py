"""What readers who see no photo score on NatuRel's complex pairs: a row beside the blind baselines.

Three readers chose between the captions of 240 pairs of the bank (``proofs/readers``); ``text_alone.tsv`` has their
shares of right choices, as ``naturel-data-audit --readers proofs/readers --score ...`` writes them: by relation and by
whether the false caption claims a listed triplet, where they read ten pairs or more, and of the other relations
together. An evaluated pair counts as much as its like in the bank.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.evaluators.results import Result
from naturel_jax.report.tables import BLIND, Cell, ModelRow
from tfds_naturel.captions import bank as banks
from tfds_naturel.captions.relations import is_mirrored
from tfds_naturel.common.files import read_tsv

NAME = "readers without the image"
BENCHMARKS = ("naturel", "naturel_unseen")
_METRICS = ("complex", "complex/mirrored/yes", "complex/mirrored/no")  # triplets and relations have too few pairs
_MOST = 0.9  # share of the pairs that have to be the bank's: the builder rewrites some that are not false of a photo


class _Share(NamedTuple):
    """What readers said of the pairs of a ``cell``, with the 95% interval."""

    cell: tuple[str, str]
    value: float
    low: float
    high: float


@functools.cache
def _shares() -> dict[tuple[str, ...], _Share]:
    """(triplet, true caption, false caption) of each complex pair of our bank -> the share of its cell."""
    cells = {}
    for row in read_tsv(Path(__file__).with_name("text_alone.tsv")):
        cell = row["mirrored"], row["relation"]
        cells[cell] = _Share(cell, *(float(row[name]) for name in ("share", "low", "high")))
    bank = banks.load()
    found: dict[tuple[str, ...], _Share] = {}
    for true, false in (pair for captions in bank.values() for pair in zip(captions[::2], captions[1::2], strict=True)):
        mirrored = ("no", "yes")[is_mirrored(false.asserts, bank)]
        share = cells.get((mirrored, true.triplet.relation)) or cells.get((mirrored, "other"))
        if share and true.kind == "complex":
            found[str(true.triplet), true.text, false.text] = share
    return found


def cells(result: Result, rows: Sequence[Mapping[str, Any]]) -> dict[str, Cell]:
    """Metric -> what readers are expected to score on ``rows``, the items of ``result`` (``results.load_items``). The
    interval is that of their shares (MOVER, Zou and Donner 2008), and does not count images. Empty unless most of the
    pairs are in our bank, and so in the edition that they read."""
    found = {}
    for name in (f"{result.benchmark}/{part}" for part in _METRICS if result.benchmark in BENCHMARKS):
        if not (metric := result.metrics.get(name)) or not metric.where:
            continue
        tag, value = metric.where
        pairs = [
            (str(row["tags"].get("complex triplet")), *(row["captions"] or ()))
            for row in rows
            if row["tags"].get(tag) == value
        ]
        counts = Counter(share for pair in pairs if (share := _shares().get(pair)))
        if pairs and (number := counts.total()) >= _MOST * len(pairs):
            score = sum(n * share.value for share, n in counts.items()) / number
            below, above = (
                sum((n / number * (share.value - bound(share))) ** 2 for share, n in counts.items()) ** 0.5
                for bound in (lambda share: share.low, lambda share: share.high)
            )
            found[name] = Cell(score, (score - below, score + above), number)
    return found


def row(cells: Mapping[str, Cell]) -> list[ModelRow]:
    """The row of these cells, if there are any."""
    return [ModelRow(NAME, BLIND, cells)] if cells else []
