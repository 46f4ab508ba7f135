"""Every measured number in the documentation is that of a dated result, and the text says of which.

A paragraph, list item or row of a table with numbers that look measured has a mark, which readers do not see; a mark
that is a paragraph of its own is about the one before it, or all rows of the table.

    <!-- proof: NAME -->         each number is in proofs/NAME.md, as rounded in the text
    <!-- source: FILE -->        each number is in this file of the repository: a setting, or a published score
    <!-- source: URL -->         a published number; not compared
    <!-- test: FILE::NAME -->    the test computes it

Numbers in code, formulas, titles and links are not looked at.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import documents
from tests.helpers.documents import PAGES, ROOT

_MARK = re.compile(r"<!-- (proof|source|test): ([^>]+?) -->")
_NUMBER = r"(?<![\w.,:/-])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_UNITS = r"us|ms|s|min|minutes|hours|[KMGT]i?B|%|times|(?:items|images)(?:/s| a second)"
_MEASURED = re.compile(rf"{_NUMBER}(?= ?(?:{_UNITS})(?![\w/]))|(?<![\w.,:/-])\d+\.\d\d+(?![\w.])")
_FOUND = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
_USUAL = re.compile(
    r"95% |95th|5th|100%|Python 3\.\d+(?: to 3\.\d+)?|\d{4}\.\d{5}"
)  # intervals, all, Python's versions, arXiv
_UNREAD = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>")

GENERATED = ("docs/reference/config.md", "docs/changelog.md")  # from the code, and from CHANGELOG.md
LEFT_OUT = (*GENERATED, "CONTRIBUTING.md")


class Unit(NamedTuple):
    """A paragraph, list item or row of a table, with the marks that are about it: (kind, value)."""

    page: str
    text: str
    marks: tuple[tuple[str, str], ...]

    @property
    def numbers(self) -> list[str]:
        """Those that look measured, as they are written."""
        return _MEASURED.findall(_USUAL.sub(" ", _UNREAD.sub(" ", self.text)))


def units(page: str, text: str) -> list[Unit]:
    """The units of a page, without its titles. A heading or a block of code must not be in ``text``."""
    found: list[list[Unit]] = [[]]
    for block in re.split(r"\n\s*\n", text):
        marks = tuple(_MARK.findall(block))
        if marks and not _MARK.sub("", block).strip():
            found[-1] = [unit._replace(marks=unit.marks + marks) for unit in found[-1]]
            continue
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        rows = [line for line in lines if line.startswith("|")]
        items = re.split(r"\n(?=\s*(?:-|\d+\.) )", "\n".join(line for line in lines if line not in rows))
        found.append([Unit(page, part, tuple(_MARK.findall(part))) for part in (*rows, *items) if part.strip()])
    return [unit for block in found for unit in block]


def all_units() -> Iterator[Unit]:
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        if (name := str(page.relative_to(ROOT))) not in LEFT_OUT:
            yield from units(name, documents.prose(page))


def is_in(number: str, text: str, scales: Sequence[float] = (1,)) -> bool:
    """Whether ``text`` has a number that is ``number`` as rounded there, times one of ``scales``."""
    decimals, value = len(number.partition(".")[2]), float(number.replace(",", ""))
    known = [float(found.replace(",", "")) for found in _FOUND.findall(text)]
    return any(abs(each * scale - value) <= 0.5001 * 10**-decimals for each in known for scale in scales)


def file_of(kind: str, value: str) -> Path:
    return ROOT / (f"proofs/{value}.md" if kind == "proof" else value.partition("::")[0])


def missing(unit: Unit) -> list[str]:
    """The numbers that no mark of the unit accounts for."""
    files = [file_of(kind, value) for kind, value in unit.marks if kind != "test" and not value.startswith("http")]
    scales = (1, 100, 0.01) if all(kind == "source" for kind, _ in unit.marks) else (1,)  # 2% is 0.02 in code
    if len(files) < len(unit.marks):
        return []
    text = "\n".join(path.read_text("utf-8") for path in files if path.is_file())
    return [number for number in unit.numbers if not is_in(number, text, scales)]


def test_every_measured_number_is_that_of_a_result():
    pairs = [(unit, found) for unit in all_units() if (found := missing(unit))]
    faults = [f"{unit.page}: {' '.join(unit.text.split())[:90]}: {', '.join(found)}" for unit, found in pairs]
    assert not faults, f"{len(faults)} without a mark, or not in what it names:\n" + "\n".join(faults)


def test_marks_are_about_numbers_and_name_what_exists():
    for unit in all_units():
        assert unit.numbers or not unit.marks or unit.text.startswith("|"), f"{unit.page}: no number in {unit.text!r}"
        for kind, value in unit.marks:
            if value.startswith("https://"):
                continue
            path, test = file_of(kind, value), value.partition("::")[2]
            assert path.is_file(), f"{unit.page}: {value}"
            assert kind != "test" or f"def {test}(" in path.read_text(), f"{unit.page}: {value}"


def test_results_say_when_where_and_of_what():
    results = [path for path in (ROOT / "proofs").glob("*.md") if path.name != "README.md"]
    assert len(results) >= 3
    for path in results:
        text = path.read_text()
        assert re.search(
            r"\| Date \| \d{4}-\d\d-\d\d \d\d:\d\d UTC \|\n\| Commit \| [0-9a-f]{40} \|\n\| Machine \| \w", text
        ), path
        assert "\n$ " in text, f"{path}: no command"


PAGE = """# Title of 5 s

A step takes 3.14 ms on `8 s` of [a machine](b/3.5/c), and 95% intervals, in Python 3.11. Ranks in 0.62 of the pairs.

- the first: 12 items/s <!-- proof: step -->
- the second 2.5 times, 1,407 images/s

| a | 0.58 | 7 |
| b | 4 MB <!-- source: x.py --> |

<!-- proof: demo -->
"""


def test_numbers_that_look_measured_are_found():
    found = [(unit.numbers, [value for _, value in unit.marks]) for unit in units("page", PAGE)]
    assert [row for row in found if row[0]] == [
        (["3.14", "0.62"], []),
        (["12"], ["step"]),
        (["2.5", "1,407"], []),
        (["0.58"], ["demo"]),
        (["4"], ["x.py", "demo"]),
    ]


@pytest.mark.parametrize(
    ("number", "text", "expected"),
    [
        ("0.69", "words 0.686 (0.657-0.714)", True),
        ("0.68", "words 0.686 (0.657-0.714)", False),
        ("1,407", "1407 images", True),
        ("1,407", "1,408 images", False),
        ("27.3", "| 27.3 s |", True),
        ("0.0047", "up to 4.7e-03", True),
        ("0.33", "published 33.00", False),
        ("3", "0.3 and 30", False),
        ("3.4", "", False),
    ],
)
def test_rounding(number, text, expected):
    assert is_in(number, text) == expected


def test_shares_may_be_of_one_or_of_a_hundred_in_a_source():
    assert is_in("0.33", "33.00", scales=(1, 0.01)) and is_in("2", "TOLERANCE = 0.02", scales=(1, 100))
