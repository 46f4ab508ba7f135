"""The bank of authored captions: one tab-separated row per caption, 8 slots (pairs 0 to 3, positive and negative) per
triplet, each with one or more paraphrases.

``bank.tsv`` has the triplets of Open Images V4, in the third edition of their captions; ``bank_v6.tsv`` adds the poses
and actions of people in V6. The earlier editions are in the history of this repository (docs/captions.md).

Columns: triplet, kind, pair, paraphrase, polarity, text, asserts, operation, shape. ``triplet`` and ``asserts`` are
``subject|relation|object`` in Open Images' names; ``asserts`` is empty for a denial. ``paraphrase`` counts the wordings
of a slot from 0, the fixed one; a positive and a negative with the same pair and paraphrase were made from each other.
A file without this column has one wording per slot.
"""

import csv
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfds_naturel.captions import grammar
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, read_regular, reading_csv
from tfds_naturel.common.schema import PAIRS, Caption, Kind, Polarity, Triplet

COLUMNS = ("triplet", "kind", "pair", "paraphrase", "polarity", "text", "asserts", "operation", "shape")
FIXED = 2 * PAIRS  # the first captions of a triplet are its paraphrases 0
OPERATIONS = ("swap", "relation", "attribute", "denial")
_OLD_COLUMNS = tuple(column for column in COLUMNS if column != "paraphrase")
_MAX_PARAPHRASES = 100  # per slot
_MAX_FIELD = 1000  # characters; real captions have fewer than 200

# MD5 of bank.tsv -> its edition, for those before the one in this package. Both were published with commit 2c31e48.
_EARLIER = {"c32e530e639625e375bab40c23b9ef4c": "first", "e75e7c649fe61a0e70484e511efeec89": "second"}
EDITION = "third"
FILES = {"v4": ("bank.tsv",), "v6": ("bank.tsv", "bank_v6.tsv")}  # the published bank of each release

Bank = dict[Triplet, tuple[Caption, ...]]
_Slot = tuple[int, int, Polarity]  # paraphrase, pair, polarity


class BadBank(UserError):
    """A malformed bank file; the message names the row and the fix."""


def files(release: str) -> list[Path]:
    """The files of the published bank for a release of Open Images (``v4`` or ``v6``)."""
    return [Path(__file__).with_name(name) for name in FILES[release]]


def edition(options: Mapping[str, str]) -> str:
    """The edition (``first``, ...) of our bank that a dataset has, by the options it was built with; empty for a bank
    that is not ours."""
    if options["bank"] == "+".join(map(md5_of, files(options["release"]))):
        return EDITION
    return _EARLIER.get(options["bank"].split("+")[0], "")


def load(path: Path | None = None, release: str = "v4") -> Bank:
    """The captions of every triplet: (positive, negative) of paraphrase 0 of pairs 0 to 3, then of paraphrase 1 of the
    pairs that have it, and so on. Default: the published bank.

    Raises BadBank unless every triplet has well-formed captions in its 8 slots, paraphrases are numbered without gaps,
    and those of a complex slot differ in nothing but their words and shape.
    """
    return {
        triplet: captions
        for place in ([path] if path else files(release))
        for triplet, captions in _read(place).items()
    }


def _read(place: Path) -> Bank:
    try:
        text = read_regular(place).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadBank(f"{place} row {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    with reading_csv(place):
        rows = list(csv.reader(text.removeprefix("\ufeff").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or tuple(rows[0]) not in (COLUMNS, _OLD_COLUMNS):
        actual = ", ".join(rows[0]) if rows else "an empty file"
        raise BadBank(f"{place} row 1: found {actual[:200]!r}, expected the tab-separated columns {', '.join(COLUMNS)}")
    header, *rest = rows
    return _collect(place, [(n, _parse(f"{place} row {n}", header, row)) for n, row in enumerate(rest, 2)])


def captions_for(
    triplet: Triplet, bank: Mapping[Triplet, tuple[Caption, ...]], rng: np.random.Generator
) -> tuple[Caption, ...]:
    """The bank's captions of ``triplet``, or the grammar's if the bank has none."""
    return bank[triplet] if triplet in bank else grammar.write(triplet, rng)


def save(path: Path, captions: Mapping[Triplet, tuple[Caption, ...]]) -> None:
    """Writes a bank that ``load`` reads back unchanged."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(COLUMNS) + "\n")
        slots = (sorted(written, key=lambda c: (c.pair, c.paraphrase)) for written in captions.values())
        for caption in itertools.chain.from_iterable(slots):
            row = caption.as_features()
            file.write("\t".join(str(row[column]) for column in COLUMNS) + "\n")


def _parse(place: str, header: list[str], row: list[str]) -> Caption:
    if len(row) != len(header):
        raise BadBank(f"{place}: has {len(row)} tab-separated fields, expected {len(header)}")
    if long := [column for column, value in zip(header, row, strict=True) if len(value) > _MAX_FIELD]:
        raise BadBank(f"{place}: {long[0]} has more than {_MAX_FIELD} characters; shorten it")
    fields: dict[str, str] = {"paraphrase": "0"} | dict(zip(header, row, strict=True))
    is_simple, is_positive = fields["kind"] == "simple", fields["polarity"] == "positive"
    allowed = {
        "kind": ("simple", "complex"),
        "polarity": ("positive", "negative"),
        "pair": ("0",) if is_simple else tuple(map(str, range(1, PAIRS))),
        "operation": ("",) if is_positive else OPERATIONS,
    }
    for column, values in allowed.items():
        if fields[column] not in values:
            raise BadBank(f"{place}: {column} is {fields[column]!r}, expected {' or '.join(map(repr, values))}")
    if fields["paraphrase"] not in map(str, range(_MAX_PARAPHRASES)):
        raise BadBank(
            f"{place}: paraphrase is {fields['paraphrase']!r}, expected a number from 0 to {_MAX_PARAPHRASES - 1}"
        )
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
    kind: Kind = "simple" if is_simple else "complex"
    polarity: Polarity = "positive" if is_positive else "negative"
    return Caption(
        text=fields["text"],
        kind=kind,
        polarity=polarity,
        pair=int(fields["pair"]),
        triplet=triplet,
        asserts=asserts,
        operation=fields["operation"],
        shape=fields["shape"],
        paraphrase=int(fields["paraphrase"]),
    )


def _collect(place: object, rows: list[tuple[int, Caption]]) -> Bank:
    found: dict[Triplet, dict[_Slot, tuple[int, Caption]]] = {}
    for number, caption in rows:
        slot = (caption.paraphrase, caption.pair, caption.polarity)
        taken = found.setdefault(caption.triplet, {})
        if slot in taken:
            problem = f"{_named(*slot[:2])} of {caption.triplet} already has a {caption.polarity}"
            fix = "remove one or correct its pair or paraphrase"
            raise BadBank(f"{place} row {number}: {problem} (row {taken[slot][0]}); {fix}")
        taken[slot] = (number, caption)
    return {triplet: _in_order(place, triplet, taken) for triplet, taken in found.items()}


def _in_order(place: object, triplet: Triplet, taken: dict[_Slot, tuple[int, Caption]]) -> tuple[Caption, ...]:
    """The captions of a triplet. Raises BadBank if one is missing, or a paraphrase is another caption's or its own."""
    counts = [1 + max((n for n, of, _ in taken if of == pair), default=0) for pair in range(PAIRS)]
    order: list[_Slot] = [
        (n, pair, polarity)
        for n in range(max(counts))
        for pair in range(PAIRS)
        if n < counts[pair]
        for polarity in ("positive", "negative")
    ]
    if missing := [
        f"{polarity} of {_named(n, pair)}" for n, pair, polarity in order if (n, pair, polarity) not in taken
    ]:
        last = max(number for number, _ in taken.values())
        raise BadBank(f"{place} row {last}: {triplet} has no {', '.join(missing)}; add the missing rows")
    texts: dict[str, int] = {}
    for n, pair, polarity in order:
        (number, caption), (first, fixed) = taken[n, pair, polarity], taken[0, pair, polarity]
        where = f"{place} row {number}: {_named(n, pair)} of {triplet}"
        if pair and (caption.asserts, caption.operation) != (fixed.asserts, fixed.operation):
            raise BadBank(
                f"{where} asserts {str(caption.asserts or '')!r} by {caption.operation!r}, but paraphrase 0 "
                f"(row {first}) {str(fixed.asserts or '')!r} by {fixed.operation!r}; all of a complex pair make "
                "one claim: correct it"
            )
        if polarity == "positive" and texts.setdefault(caption.text, number) != number and n:
            raise BadBank(f"{where} repeats the text of row {texts[caption.text]}; write it in other words")
    return tuple(taken[slot][1] for slot in order)


def _named(paraphrase: int, pair: int) -> str:
    return f"paraphrase {paraphrase} of pair {pair}" if paraphrase else f"pair {pair}"
