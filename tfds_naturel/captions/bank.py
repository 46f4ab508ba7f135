"""The bank of authored captions: one tab-separated row per caption, 8 rows per triplet.

``bank.tsv`` has the triplets of Open Images V4, ``bank_first.tsv`` the first edition of their captions. ``bank_v6.tsv``
adds the poses and actions of people in V6. ``hard_pairs.tsv`` lists the complex pairs of ``bank.tsv`` that no text-only
model of ``tfds_naturel.audit``, which writes the file, gets right; ``hard_pairs_first.tsv`` those of the first edition.

Columns: triplet, kind, pair, polarity, text, asserts, operation, shape. ``triplet`` and ``asserts`` are
``subject|relation|object`` in Open Images' names; ``asserts`` is empty for a denial.
"""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfds_naturel.captions import grammar
from tfds_naturel.errors import UserError
from tfds_naturel.files import reading_csv
from tfds_naturel.schema import PAIRS, Caption, Kind, Polarity, Triplet

COLUMNS = ("triplet", "kind", "pair", "polarity", "text", "asserts", "operation", "shape")
OPERATIONS = ("swap", "relation", "attribute", "denial")
_MAX_FIELD = 1000  # characters; real captions have fewer than 200

FIRST = "first"  # names the first edition where a path is expected
FILES = {"v4": ("bank.tsv",), "v6": ("bank.tsv", "bank_v6.tsv")}  # the published bank of each release

Bank = dict[Triplet, tuple[Caption, ...]]


class BadBank(UserError):
    """A malformed bank file; the message names the row and the fix."""


def files(release: str) -> list[Path]:
    """The files of the published bank for a release of Open Images (``v4`` or ``v6``)."""
    return [Path(__file__).with_name(name) for name in FILES[release]]


def find(text: str) -> Path:
    """The bank file of a ``--bank`` flag: a path, or ``first`` for the first edition of the published bank."""
    return Path(__file__).with_name("bank_first.tsv") if text == FIRST else Path(text)


def load(path: Path | None = None, release: str = "v4") -> Bank:
    """The captions of every triplet, in the order (positive, negative) of pairs 0 to 3. Default: the published bank.

    Raises BadBank unless every triplet has exactly 8 well-formed captions.
    """
    return {
        triplet: captions
        for place in ([path] if path else files(release))
        for triplet, captions in _read(place).items()
    }


@functools.cache
def hard_pairs() -> frozenset[tuple[str, str]]:
    """The (true, false) captions that cannot be told apart without the image, as far as the audit's models can say;
    those of both editions."""
    pairs: set[tuple[str, str]] = set()
    for name in ("hard_pairs.tsv", "hard_pairs_first.tsv"):
        with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as f:
            rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
            pairs.update((row["positive"], row["negative"]) for row in rows)
    return frozenset(pairs)


def _read(place: Path) -> Bank:
    try:
        text = place.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadBank(f"{place} row {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    with reading_csv(place):
        rows = list(csv.reader(text.removeprefix("\ufeff").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or tuple(rows[0]) != COLUMNS:
        actual = ", ".join(rows[0]) if rows else "an empty file"
        raise BadBank(f"{place} row 1: found {actual[:200]!r}, expected the tab-separated columns {', '.join(COLUMNS)}")
    return _collect(place, [(number, _parse(f"{place} row {number}", row)) for number, row in enumerate(rows[1:], 2)])


def captions_for(
    triplet: Triplet, bank: Mapping[Triplet, tuple[Caption, ...]], rng: np.random.Generator
) -> tuple[Caption, ...]:
    """The bank's captions of ``triplet``, or the grammar's if the bank has none."""
    return bank[triplet] if triplet in bank else grammar.write(triplet, rng)


def save(path: Path, captions: Mapping[Triplet, tuple[Caption, ...]]) -> None:
    """Writes a bank that ``load`` reads back unchanged."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for caption in (c for written in captions.values() for c in written):
            row = caption.as_features()
            file.write("\t".join(str(row[column]) for column in COLUMNS) + "\n")


def _parse(place: str, row: list[str]) -> Caption:
    if len(row) != len(COLUMNS):
        raise BadBank(f"{place}: has {len(row)} tab-separated fields, expected {len(COLUMNS)}")
    if long := [column for column, value in zip(COLUMNS, row, strict=True) if len(value) > _MAX_FIELD]:
        raise BadBank(f"{place}: {long[0]} has more than {_MAX_FIELD} characters; shorten it")
    fields: dict[str, str] = dict(zip(COLUMNS, row, strict=True))
    _one_of(place, fields, "kind", ("simple", "complex"))
    _one_of(place, fields, "polarity", ("positive", "negative"))
    _one_of(place, fields, "pair", ("0",) if fields["kind"] == "simple" else tuple(map(str, range(1, PAIRS))))
    is_positive = fields["polarity"] == "positive"
    _one_of(place, fields, "operation", ("",) if is_positive else OPERATIONS)
    try:
        triplet = Triplet.parse(fields["triplet"])
        asserts = Triplet.parse(fields["asserts"]) if fields["asserts"] else None
    except ValueError as error:
        raise BadBank(f"{place}: {error}") from error
    if not fields["text"].strip() or not fields["shape"].strip():
        raise BadBank(f"{place}: text or shape is empty; fill in the caption and its sentence shape")
    if (asserts is None) != (fields["operation"] == "denial"):
        raise BadBank(f"{place}: asserts must be empty for a denial and a triplet for all other captions")
    if (asserts == triplet) != is_positive:
        problem = "negative asserts its own" if asserts == triplet else "positive asserts another"
        raise BadBank(f"{place}: {problem} triplet ({asserts}); correct polarity or asserts")
    kind: Kind = "simple" if fields["kind"] == "simple" else "complex"
    polarity: Polarity = "positive" if is_positive else "negative"
    pair, operation, shape = int(fields["pair"]), fields["operation"], fields["shape"]
    return Caption(fields["text"], kind, polarity, pair, triplet, asserts, operation, shape)


def _one_of(place: str, fields: Mapping[str, str], column: str, allowed: tuple[str, ...]) -> None:
    if fields[column] not in allowed:
        expected = " or ".join(repr(value) for value in allowed)
        raise BadBank(f"{place}: {column} is {fields[column]!r}, expected {expected}")


def _collect(place: object, rows: list[tuple[int, Caption]]) -> Bank:
    slots: dict[Triplet, dict[tuple[int, str], tuple[int, Caption]]] = {}
    for number, caption in rows:
        slot = (caption.pair, caption.polarity)
        taken = slots.setdefault(caption.triplet, {})
        if slot in taken:
            problem = f"pair {caption.pair} of {caption.triplet} already has a {caption.polarity}"
            raise BadBank(f"{place} row {number}: {problem} (row {taken[slot][0]}); remove one or correct its pair")
        taken[slot] = (number, caption)
    order = [(pair, polarity) for pair in range(PAIRS) for polarity in ("positive", "negative")]
    for triplet, taken in slots.items():
        if missing := [f"{polarity} of pair {pair}" for pair, polarity in order if (pair, polarity) not in taken]:
            last = max(number for number, _ in taken.values())
            raise BadBank(f"{place} row {last}: {triplet} has no {', '.join(missing)}; add the missing rows")
    return {triplet: tuple(taken[slot][1] for slot in order) for triplet, taken in slots.items()}
