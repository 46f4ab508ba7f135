"""Every measured number in the documentation is that of a dated result, and a mark says which number of it.

Readers do not see a mark. It accounts for the numbers of its paragraph, list item or table row. A mark that is a
paragraph of its own is about the paragraph, list or table above it, without the items and rows that have their own.

    <!-- proof: NAME -->                  each row of the table is in a table of proofs/NAME.md, under the same headings
    <!-- proof: NAME: QUOTE; QUOTE -->    the numbers are those at # in these words of proofs/NAME.md, in this order
    <!-- source: FILE: QUOTE -->          the same for a file of the repository: a setting, or a published score
    <!-- source: URL: NUMBER NUMBER -->   published numbers; not compared
    <!-- test: FILE::NAME: QUOTE -->      the numbers are in the code of the test
    <!-- test: FILE::NAME -->             the test reads the page, and fails if one of the numbers is changed

A quote must fit one place only. In it, * is one word and ... any text; spaces, ends of lines, pipes and backticks do
not count. Numbers in code, formulas, titles and links are not looked at.
"""

import functools
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from tests.helpers import documents
from tests.helpers.documents import PAGES, ROOT

_MARK = re.compile(r"<!-- (proof|source|test): (\S+?)(?::\s+([^>]+?))? -->")
_VALUE = r"\d+\smin\s\d+\ss|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?"
_UNITS = r"us|ms|s|min|minutes|hours|[KMGT]i?B|%|times|(?:items|images)(?:/s| a second)|points?|kills|stops"
_NUMBER = re.compile(rf"(?<![\w.,:/-])({_VALUE})(?:\s?({_UNITS})(?![\w/])|(?!\w|\.\d))")
_UNREAD = re.compile(
    r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>"
    r"|95% |100%|(?:Python|Orbax|CUDA|JAX|OpenCLIP|CC BY|Croissant) \d+\.\d+(?: to \d+\.\d+)?"  # 95%, all, versions
    r"|\d{4}\.\d{5}"  # arXiv
)
_QUOTED = {"...": ".*?", "*": r"\S+", "#": rf"(?<![\w.])((?>{_VALUE}))"}
_SCORES = re.compile(r"NatuRel|Winoground|VG-Relations|SugarCrepe")  # in the head of a table of scores
# Made from others; examples of marks.
LEFT_OUT = ("docs/models.md", "docs/reference/config.md", "docs/changelog.md", "CONTRIBUTING.md")


class Unit(NamedTuple):
    """A part of a page, and the marks that account for its numbers: (kind, file, quotes)."""

    page: str
    text: str
    marks: list[tuple[str, str, str]]


class Number(NamedTuple):
    """A number as it is written, with its % sign. One with a unit or decimals is ``measured``, and needs a mark; one
    like 0.5 is not, being a setting."""

    text: str
    start: int
    measured: bool


def units(page: str, text: str) -> list[Unit]:
    """The units of a page; ``text`` is without blocks of code."""
    found = [Unit(page, "", [])]
    for block in re.split(r"\n\s*\n", text):
        if not _MARK.sub("", block).strip():
            found[-1] = found[-1]._replace(marks=found[-1].marks + _MARK.findall(block))
            continue
        parts = re.split(r"\n(?=\||\s*(?:-|\d+\.) )", re.sub(r"(?m)^#.*", "", block))
        found += [Unit(page, part, marks) for part in parts if (marks := _MARK.findall(part))]
        found.append(Unit(page, "\n".join(part for part in parts if not _MARK.search(part)), []))
    return found


def all_units() -> Iterator[Unit]:
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        if (name := str(page.relative_to(ROOT))) not in LEFT_OUT:
            yield from units(name, documents.prose(page))


def numbers(text: str) -> list[Number]:
    found = _NUMBER.finditer(_UNREAD.sub(lambda match: " " * len(match[0]), text))
    return [
        Number(
            each[1] + "%" * (each[2] == "%"), each.start(), bool(each[2] or re.search(r"[1-9]\.\d|\.\d\d|min", each[1]))
        )
        for each in found
    ]


@functools.cache
def text_of(kind: str, file: str) -> str:
    """The text of a file, or of one test with its decorators. Raises OSError if there is no file."""
    name, _, test = file.partition("::")
    text = (ROOT / (f"proofs/{name}.md" if kind == "proof" else name)).read_text("utf-8")
    text = text.replace("**", "") if kind == "proof" else text  # reports print the best in bold
    return text if not test else next((part for part in text.split("\n\n\n") if f"def {test}(" in part), "")


def quoted(quote: str, text: str) -> list[str]:
    """The numbers of ``text`` at the # of ``quote``. Raises LookupError unless it fits one place."""
    quote, text = (re.sub(r"[\s|`]+", " ", each) for each in (quote.strip(), text))
    parts = re.split(r"( ?\.\.\. ?|(?<!\S)\*(?!\S)|#)", quote)
    pattern = "".join(_QUOTED.get(part.strip(), re.escape(part)) for part in parts)
    places = {match.regs[1:] for match in re.finditer(rf"(?<!\w)(?={pattern}(?!\w))", text)}  # also overlapping ones
    if len(places) != 1:
        raise LookupError(f"{quote!r} fits {len(places)} places")
    return [text[start:end] + "%" * text.startswith("%", end) for start, end in places.pop()]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def is_row_of(row: str, headings: str, text: str) -> bool:
    """Whether a Markdown table of ``text`` has these cells under these headings, the first of which may differ."""
    names = cells(headings)[1:]
    for block in re.split(r"\n\s*\n", text):
        first, *known = [cells(line) for line in block.splitlines() if line.startswith("|")] or [[]]
        if set(names) <= set(first[1:]):
            columns = [0, *map(first.index, names)]
            if cells(row) in [[each[n] for n in columns] for each in known]:
                return True
    return False


def is_rounded(number: str, known: str) -> bool:
    """Whether ``known`` is ``number``, as rounded there. 2% may be 2 or 0.02."""
    if "min" in number + known:
        return number.split() == known.split()
    value, exact = (float(each.strip("%").replace(",", "")) for each in (number, known))
    scales = {(True, False): (1, 100), (False, True): ()}.get(("%" in number, "%" in known), (1,))
    decimals = len(number.strip("%").partition(".")[2])
    return any(abs(value - exact * scale) <= 0.5001 * 10**-decimals for scale in scales)


def aligned(found: Sequence[Number], known: Sequence[str]) -> bool:
    """Whether ``known`` are among the numbers, in the same order, and all that are measured are ``known``."""
    if not found:
        return not known
    first, *others = found
    if known and is_rounded(first.text, known[0]) and aligned(others, known[1:]):
        return True
    return not first.measured and aligned(others, known)


def fault(unit: Unit) -> str:
    """What is wrong with the numbers of a unit, or an empty string."""
    lines, known, tables = unit.text.splitlines(), list[str](), list[str]()
    try:
        for kind, file, quotes in unit.marks:
            if file.startswith("https://"):
                known += quotes.split()
            elif quotes:
                known += [number for quote in quotes.split(";") for number in quoted(quote, text_of(kind, file))]
            elif kind == "proof":
                tables.append(text_of(kind, file))
            elif kind == "test" and f'"{unit.page}"' in text_of(kind, file):
                return ""  # test_changed_number_is_found runs that test
    except (LookupError, OSError) as error:
        return str(error)
    if tables:
        rows = [line for line in lines if line.startswith("|") and not re.fullmatch(r"[|:\s-]+", line)]
        if wrong := [row for row in rows[1:] if not any(is_row_of(row, rows[0], text) for text in tables)]:
            return f"no result has the row {wrong[0]}"
        lines = [line for line in lines if not line.startswith("|")]
    found = numbers("\n".join(lines))
    if lines and lines[0].startswith("|") and _SCORES.search(lines[0]):
        found = [each._replace(measured=True) for each in found]
    return "" if aligned(found, known) else f"{[each.text for each in found]}, but the marks stand for {known}"


def test_numbers_are_those_of_their_marks():
    pairs = [(unit, why) for unit in all_units() if (why := fault(unit))]
    assert not pairs, "\n".join(f"{unit.page}: {' '.join(unit.text.split())[:90]}\n  {why}" for unit, why in pairs)


def changed(unit: Unit) -> Iterator[Unit]:
    """The unit with another last digit of one measured number, for each of them."""
    for number in (each for each in numbers(unit.text) if each.measured):
        last = number.start + len(number.text.rstrip("% s")) - 1
        digit = str((int(unit.text[last]) + 1) % 10)
        yield unit._replace(text=unit.text[:last] + digit + unit.text[last + 1 :])


def test_changed_number_is_found(monkeypatch, tmp_path):
    """By the marks, or by the test that reads the page."""
    (tmp_path / "docs").mkdir()
    for unit in all_units():
        for other in changed(unit):
            if not fault(other):
                file, _, test = unit.marks[0][1].partition("::")
                module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
                monkeypatch.setattr(module, "ROOT", tmp_path)
                (tmp_path / unit.page).write_text((ROOT / unit.page).read_text().replace(unit.text, other.text))
                with pytest.raises(AssertionError):
                    getattr(module, test)()


@pytest.mark.parametrize(
    ("page", "first", "second"),
    [
        ("README.md", "0.73 ±0.02 | 0.78 ±0.01 | 0.22 ±0.05", "0.96 | 0.99 | 0.81"),
        ("README.md", "took 9 min", "took 2 min"),
        ("docs/captions.md", "0.82 and 0.55 of the pairs", "0.55 and 0.82 of the pairs"),
        ("README.md", "| NegCLIP | ", "| Ours | 97 | 9 |\n| NegCLIP | "),
        ("README.md", "## Documentation", "| Model | NatuRel Simple |\n|---|---|\n| Ours | 97 |\n\n## Documentation"),
        ("README.md", "NatuRel Simple", "NatuRel Complex"),
        ("README.md", "| NegCLIP-SP |", "| NegCLIP-AP |"),
    ],
    ids=("row", "duration", "sentence", "row made up", "table made up", "columns swapped", "rows swapped"),
)
def test_false_number_is_found(page, first, second):
    text = documents.prose(ROOT / page)
    swapped = text.replace(first, "\0").replace(second, first).replace("\0", second)
    assert swapped != text and any(fault(unit) for unit in units(page, swapped))


def test_results_say_when_where_and_of_what():
    """The tests that the documentation names exist."""
    head = r"\| Date \| \d{4}-\d\d-\d\d \d\d:\d\d UTC \|\n\| Commit \| [0-9a-f]{40} \|\n\| Machine \| \w(?s:.*)\n\$ "
    results = {path.stem: path.read_text() for path in (ROOT / "proofs").glob("*.md") if path.name != "README.md"}
    assert not [name for name, text in results.items() if not re.search(head, text)]
    named = {name for page in PAGES for name in re.findall(r"proofs/(\w+)\.md", page.read_text())}
    assert named - {"README"} <= results.keys()


def test_numbers_that_look_measured_are_found():
    text = """A step of `8 s` takes 3.14 ms in [a machine](b/3.5/c), 95% intervals, in Python 3.11. Rank 0.62.
2.5 times faster: 1,407
images/s or 2 of 7 in 2 min 3 s."""
    assert [each.text for each in numbers(text) if each.measured] == ["3.14", "0.62", "2.5", "1,407", "2 min 3 s"]


def test_rounding():
    equal = [("0.69", "0.686"), ("1,407", "1407"), ("0.0047", "4.7e-03"), ("2%", "0.02"), ("2 min 3 s", "2 min\n3 s")]
    unequal = [("0.68", "0.686"), ("1,407", "1,408"), ("2", "2%"), ("2 min 3 s", "2")]
    assert [is_rounded(*pair) for pair in equal + unequal] == [True] * len(equal) + [False] * len(unequal)


def test_quotes_fit_one_place():
    text = "| a | 0.58 (0.5) | 7% |\n| b | 0.59 (0.6) | 8 |"
    assert quoted("a # * #", text) == ["0.58", "7%"] and quoted("a ... (0.6) #", text) == ["8"]
    for wrong in ("# (", "c #", "# ... (0.6)"):
        with pytest.raises(LookupError):
            quoted(wrong, text)
