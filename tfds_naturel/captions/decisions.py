"""Annotators' decisions on captions: CSV from the review page, or the JSON that Label Studio exports."""

import collections
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfds_naturel.captions.exchanges import CONVERSE
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_size, dict_rows, is_unicode, load_json, reading_csv, separator
from tfds_naturel.common.schema import POLARITIES, Triplet

COLUMNS = ("triplet", "text", "decision")
CHECKSUM = "checksum"  # column of exported files, after those that it is about
VERDICTS = ("accept", "unclear", "reject")  # of several rows of one person about a caption, the last here counts
MAX_BYTES = 16 << 20  # of a file; all captions of the bank take 2 MB
_MOST_LETTERS = {"annotator": 60, "reason": 1000, "text": 1000}

Key = tuple[Triplet, str]  # a decision applies to a text, whichever pair it is in


class Decision(NamedTuple):
    """What somebody thinks of a caption: one of ``VERDICTS``, and why."""

    verdict: str
    reason: str = ""


Decisions = dict[Key, Decision]


def read(paths: Sequence[Path]) -> dict[str, Decisions]:
    """Person -> what they decided, without captions left open.

    A CSV file has at least the columns ``COLUMNS``, and may have ``annotator``, whose decision a row is (default: the
    file's name), ``reason``, and ``CHECKSUM``. A JSON file is an export of Label Studio. Both may have several people.
    Raises UserError with the row or task, what was found and what was expected; for a row that does not have its
    checksum, a file without decisions, and two files of one person.
    """
    people: dict[str, Decisions] = {}
    files: dict[str, Path] = {}
    for path in paths:
        check_size(path, MAX_BYTES)
        found = _label_studio(path) if path.suffix == ".json" else _csv(path)
        if not found:
            raise UserError(f"{path}: has no decision; expected one of each caption that was judged, or no such file")
        for name, decided in found.items():
            if name in people:
                raise UserError(f"{path}: decisions of {name!r}, as in {files[name]}; give one file of each person")
            people[name], files[name] = decided, path
    return people


def majority(people: Iterable[Mapping[Key, Decision]]) -> dict[Key, str]:
    """The verdict that most people gave to a caption; ``unclear`` if there is a tie."""
    votes: dict[Key, Counter[str]] = collections.defaultdict(Counter)
    for decided in people:
        for key, decision in decided.items():
            votes[key][decision.verdict] += 1
    return {key: _most(of_key) for key, of_key in votes.items()}


def _most(votes: Counter[str]) -> str:
    (verdict, number), *others = votes.most_common()
    return "unclear" if others and others[0][1] == number else verdict


def rejected(paths: Sequence[Path]) -> frozenset[Key]:
    """The (triplet, caption text) keys that a majority rejected. Raises UserError like ``read``, and for a position,
    whose captions are not of the bank."""
    verdicts = majority(read(paths).values())
    if positions := [triplet for triplet, _ in verdicts if triplet.relation in CONVERSE]:
        raise UserError(f"{' '.join(map(str, paths))}: {positions[0]} is a position, not a triplet; remove its rows")
    return frozenset(key for key, verdict in verdicts.items() if verdict == "reject")


def _csv(path: Path) -> dict[str, Decisions]:
    people: dict[str, Decisions] = {}
    with reading_csv(path), path.open(encoding="utf-8-sig", newline="") as f:
        columns, rows = dict_rows(f, full=True, delimiter=separator(f))
        if "question" in columns:
            raise UserError(
                f"{path}:1: has answers of readers or about photos, not decisions on captions of the bank; "
                "`naturel-data-audit --readers DIR --score` reports on them, and no caption is left out for them"
            )
        if missing := [column for column in COLUMNS if column not in columns]:
            raise UserError(f"{path}:1: columns {columns!r:.200}; missing {missing}; export it from the page again")
        for number, row in enumerate(rows, 2):
            check_row(f"{path}:{number}", row)
            _add(people.setdefault(row.get("annotator") or path.stem, {}), f"{path}:{number}", row)
    return {name: decided for name, decided in people.items() if decided}


def checksum(cells: Iterable[tuple[str, str]]) -> str:
    """What is in the column ``CHECKSUM`` behind ``cells``, (column, cell) each, as the page makes it, too. It is not a
    number, which a spreadsheet would write in its own way."""
    return f"crc32:{zlib.crc32(chr(9).join(map('='.join, cells)).encode()):08x}"


def check_row(place: str, row: Mapping[str, str]) -> None:
    """Raises UserError for a row that is not as it was exported; rows of a file without checksums pass."""
    expected = row.get(CHECKSUM)
    if expected and checksum(itertools.takewhile(lambda cell: cell[0] != CHECKSUM, row.items())) != expected:
        raise UserError(
            f"{place}: the cells are not those that were exported ({CHECKSUM} {expected!r:.40}): damaged, or edited; "
            f"export again, or look at the row and empty its {CHECKSUM}"
        )


def _add(decided: Decisions, place: str, row: Mapping[str, str]) -> None:
    """Adds the decision of a row, if there is one."""
    verdict, decision = row["decision"], Decision(row["decision"], row.get("reason", ""))
    if verdict not in ("", *VERDICTS):
        raise UserError(f"{place}: decision {verdict!r:.80}; expected accept, reject, unclear or nothing")
    if long := [name for name, most in _MOST_LETTERS.items() if len(row.get(name, "")) > most]:
        raise UserError(f"{place}: {long[0]} has more than {_MOST_LETTERS[long[0]]} characters; shorten it")
    for name in ("triplet", "text"):
        if escape.cell(row[name]) != row[name]:
            raise UserError(
                f"{place}: {name} {row[name]!r:.80} begins like a formula, which no caption does; remove the row"
            )
    try:
        key = (Triplet.parse(row["triplet"]), row["text"])
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    before = decided.get(key)
    if verdict and (before is None or VERDICTS.index(verdict) > VERDICTS.index(before.verdict)):
        decided[key] = decision


# ---- Label Studio ----------------------------------------------------------------------------------------------------


def _label_studio(path: Path) -> dict[str, Decisions]:
    """Decisions on the tasks of ``tfds_naturel.audit.label_studio``, as Label Studio exports them (``JSON``)."""
    people: dict[str, Decisions] = {}
    tasks = load_json(path, path.read_bytes(), "export it from Label Studio again, as JSON")
    if not is_unicode(tasks):
        raise UserError(f"{path}: has half of a surrogate pair; export it from Label Studio again, as JSON")
    for number, task in enumerate(_list(path, "the file", tasks), 1):
        place = f"{path}: task {number}"
        data = _dict(place, "data", _dict(place, "the task", task).get("data"))
        for annotation in _list(place, "annotations", task.get("annotations")):
            if not _dict(place, "an annotation", annotation).get("was_cancelled"):
                values = dict(_values(place, annotation))
                for row in _rows(place, data, values):
                    _add(people.setdefault(_who(place, annotation), {}), place, row)
    return {name: decided for name, decided in people.items() if decided}


def _values(place: str, annotation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Control -> the choice or text that was entered there."""
    for result in _list(place, "result", annotation.get("result")):
        value = _dict(place, "value", _dict(place, "a result", result).get("value"))
        chosen = value.get("choices") or value.get("text") or [""]
        yield (
            str(result.get("from_name")),
            _string(place, "a choice", chosen[0] if isinstance(chosen, list) else chosen),
        )


def _rows(place: str, data: Mapping[str, Any], values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for polarity in POLARITIES:
        if values.get(polarity):
            yield {
                "triplet": _string(place, "data.triplet", data.get("triplet")),
                "text": _string(place, f"data.{polarity}", data.get(polarity)),
                "decision": values[polarity],
                "reason": values.get(f"{polarity}_reason", ""),
            }


def _who(place: str, annotation: Mapping[str, Any]) -> str:
    who = annotation.get("completed_by")
    found = who.get("email") or who.get("id") if isinstance(who, dict) else who
    if not isinstance(found, str | int):
        raise UserError(f"{place}: completed_by is {found!r:.80}; expected who made the annotation")
    return f"user {found}"[:60] if isinstance(found, int) else found[:60]


def _dict(place: object, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: {name} is {value!r:.80}; expected an object of Label Studio's JSON (not JSON-MIN)")
    return value


def _list(place: object, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{place}: {name} is {value!r:.80}; expected a list of Label Studio's JSON (not JSON-MIN)")
    return value


def _string(place: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {name} is {value!r:.80}; expected text")
    return value
