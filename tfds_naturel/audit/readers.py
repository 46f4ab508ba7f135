"""Captions and pairs for readers to judge, human or not, with the labels in a file apart; and what their answers say.

Four questions: how natural is a caption (1 to 5); is it true or false of every photo of its triplet, or neither; which
caption of a pair is true, from the text alone; and is one true of the photo that is shown. Captions by people are among
those judged for naturalness, unmarked, so that a reader's scale is known.
"""

import collections
import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tfds_naturel.audit import agreement, form
from tfds_naturel.audit.attack import Pair
from tfds_naturel.audit.form import Form, Kind, Question, Screen
from tfds_naturel.captions import decisions
from tfds_naturel.common import escape, pages
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_size, dict_rows, read_tsv, reading_csv, separator, unlinked

PEOPLE = 0.25  # captions by people, as a share of ours
FEW = 10  # pairs: of fewer of a relation, no share is given
TEXT_ALONE = "text_alone.tsv"  # in the folder of the questions
KINDS = {
    "natural": Kind("How natural is it?", tuple((n, n, n) for n in "12345")),
    "truth": Kind("Is it true?", tuple((value, value, value[0]) for value in ("true", "false", "open"))),
    "choice": Kind("Which is true?", (("1", "1", "1"), ("2", "2", "2"))),
}
SHOWN = ("item", "question", "about", "first", "second")  # fields of an item
ON_PHOTOS = Kind("Is it true of this photo?", (("yes", "Yes", "y"), ("no", "No", "n"), ("unclear", "Not sure", "m")))
ANSWERS = {
    question: tuple(value for value, _, _ in kind.answers) for question, kind in (KINDS | {"photo": ON_PHOTOS}).items()
}
FORM = Form(
    title="NatuRel captions: questions to readers",
    guidelines=(
        ("How natural is it,", "as a caption that somebody wrote for a photo? From 1 (nobody writes this) to 5."),
        (
            "Is it true?",
            "You know only what is said above it of the photo. True: of every such photo; false: of none; open: of "
            "some.",
        ),
        ("Which is true of the photo?", "You do not see it: choose what is likelier."),
    ),
    kinds=KINDS,
    file="answers",
    key=SHOWN,
    answer="answer",
    columns=(*SHOWN, "answer", "annotator"),
    filters=("question",),
)
PHOTO_FORM = FORM._replace(
    title="NatuRel captions: bindings and positions",
    guidelines=(
        ("Is it true of this photo?", "Judge each caption by itself: both may be true, or neither."),
        ("Boxes", "mark what was annotated; a second thing of the same name, without a box, counts as well."),
        ("Left and right", "are as you see the picture, and where most of each thing is."),
        ("Not sure", "is an answer, too: too small, hidden, or a matter of words."),
    ),
    kinds={"photo": ON_PHOTOS},
    filters=(),
)
_Name = TypeVar("_Name", str, tuple[str, str])
_Z = 1.96  # standard errors on each side of a 95% interval


class Item(NamedTuple):
    """A question to readers, and what they are not shown: the ``label`` of the caption (``true``, ``false``), or the
    number of the true one of a pair; its relation; whether its false caption claims a listed triplet; and whether the
    caption is ``ours`` and about a triplet, a ``binding``, a ``position``, or by ``people``. ``about``: the triplet,
    where the question names it."""

    item: str
    question: str
    about: str
    first: str
    second: str
    label: str
    relation: str
    mirrored: str
    source: str


def sample(pairs: Sequence[Pair], people: Sequence[str], captions: int, choices: int, seed: int) -> list[Item]:
    """The questions about a sample of ``pairs`` (of any kind), in the same proportions of relations.

    ``choices`` pairs are shown as pairs; of ``captions`` others, one caption is judged, the true and the false one
    equally often. Whether a binding or position is true takes its photo, so it is not asked. Raises UserError if there
    are too few pairs.
    """
    if captions + choices > len(pairs):
        raise UserError(f"{captions} captions and {choices} pairs of {len(pairs)} pairs: ask for fewer of them")
    rng = np.random.default_rng(seed)
    together = _stratified(pairs, choices, rng)
    taken = set(together)
    alone = _stratified([pair for pair in pairs if pair not in taken], captions, rng)
    singles = [(pair, ("true", "false")[n % 2]) for n, pair in enumerate(alone)]
    own = [
        Item("", "", "", getattr(pair, label), "", label, pair.relation, pair.mirrored, pair.kind or "ours")
        for pair, label in singles
    ]
    truth = [
        item._replace(question="truth", about=re.sub(r"[|_]", " ", pair.group))
        for item, (pair, _) in zip(own, singles, strict=True)
        if not pair.kind
    ]
    chosen = rng.permutation(len(people))[: round(PEOPLE * captions)]
    own += [Item("", "", "", " ".join(people[n].split()), "", "true", "", "", "people") for n in chosen]
    sections = [[item._replace(question="natural") for item in own], truth, [_choice(pair, rng) for pair in together]]
    return [
        section[n]._replace(item=f"{section[n].question}-{number}")
        for section in sections
        for number, n in enumerate(rng.permutation(len(section)), 1)
    ]


def _stratified(pairs: Sequence[Pair], number: int, rng: np.random.Generator) -> list[Pair]:
    """``number`` of the pairs, in the proportions of their kinds and relations."""
    return [pairs[n] for n in form.sample([f"{pair.kind} {pair.relation}" for pair in pairs], number, rng)]


def _choice(pair: Pair, rng: np.random.Generator) -> Item:
    number = int(rng.integers(2))
    first, second = (pair.false, pair.true) if number else (pair.true, pair.false)
    return Item("", "choice", "", first, second, str(number + 1), pair.relation, pair.mirrored, pair.kind or "ours")


def write(folder: Path, items: Sequence[Item]) -> None:
    """Writes ``questions.tsv`` with an empty column ``answer``, the same as a page (``questions.html``, whose answers
    are CSV), and ``key.tsv``, which readers must not see.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = [{name: getattr(item, name) for name in SHOWN} for item in items]
    _write_tsv(folder / "questions.tsv", [(*SHOWN, "answer"), *((*row.values(), "") for row in shown)])
    write_key(folder, items)
    unlinked(folder / "questions.html").write_text(form.page(FORM, list(map(_screen, shown))), encoding="utf-8")


def write_key(folder: Path, items: Sequence[Item]) -> None:
    """Writes ``key.tsv``, from which ``report`` has the labels."""
    _write_tsv(folder / "key.tsv", [Item._fields, *items])


def _screen(row: Mapping[str, str]) -> Screen:
    title = f"The photo shows: {row['about']}." if row["about"] else ""
    return Screen(title, (Question(row["question"], tuple(filter(None, (row["first"], row["second"]))), dict(row)),))


def _write_tsv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    text = "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    unlinked(path).write_text(text, encoding="utf-8")


def read_answers(path: Path, items: Mapping[str, Item]) -> dict[str, str]:
    """Item -> answer, without the items that are left open. Raises UserError for an unknown item or answer, another
    question than the item's, two answers to one item or two columns of one name, and a sheet without answers, whose
    reader would count."""
    found = {}
    check_size(path, decisions.MAX_BYTES)
    with reading_csv(path), path.open(encoding="utf-8-sig", newline="") as file:
        is_csv = path.suffix == ".csv"
        dialect = {"delimiter": separator(file)} if is_csv else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        names, lines = dict_rows(file, full=True, **dialect)
        rows = list(lines)
    if missing := [name for name in ("item", "answer") if name not in names]:
        raise UserError(
            f"{path}:1: has no {missing[0]}; expected the columns item and answer, tab-separated but in .csv"
        )
    for number, row in enumerate(rows, 2):
        decisions.check_row(f"{path}:{number}", row)
        if row["item"] not in items:
            raise UserError(f"{path}:{number}: item {row['item']!r} is not in the key; are these other questions?")
        asked = items[row["item"]]
        if other := [name for name in SHOWN if _words(row.get(name, "")) not in ([], _words(getattr(asked, name)))]:
            raise UserError(
                f"{path}:{number}: {other[0]} of {asked.item} is {row[other[0]]!r:.80}, in the key "
                f"{getattr(asked, other[0])!r:.80}; are these other questions?"
            )
        allowed = ANSWERS[asked.question]
        if row["answer"] not in ("", *allowed):
            raise UserError(f"{path}:{number}: answer {row['answer']!r}; expected {', '.join(allowed)} or nothing")
        if row["item"] in found:
            raise UserError(f"{path}:{number}: a second answer to {row['item']!r}; keep one")
        if row["answer"]:
            found[row["item"]] = row["answer"]
    if not found:
        raise UserError(f"{path}: has no answer; expected one of each item that was read, or leave the file out")
    return found


def _words(text: str) -> list[str]:
    """What a spreadsheet leaves of a text: it may change quotation marks and spaces."""
    return re.findall(r"\w+", text)


def read_key(path: Path) -> dict[str, Item]:
    """The items that ``write`` wrote, by name. Raises UserError for other columns or an unknown question."""
    items = {}
    for row in read_tsv(path):
        if row.keys() != set(Item._fields):
            raise UserError(f"{path}: has the columns {', '.join(row):.200}; expected {', '.join(Item._fields)}")
        if row["question"] not in ANSWERS:
            raise UserError(f"{path}: {row['item']}: question {row['question']!r:.80}; expected {', '.join(ANSWERS)}")
        items[row["item"]] = Item(**row)
    return items


def report(folder: Path, answers: Sequence[Path]) -> list[str]:
    """The report's lines on the answers of one or more readers to the questions in ``folder``."""
    items = read_key(folder / "key.tsv")
    readers = [read_answers(path, items) for path in answers]
    number = f"{len(readers)} reader{'s' * (len(readers) > 1)}"
    lines = ["# What readers said", "", f"{number}; 95% intervals over items (Wilson's, for shares).", ""]
    for path, found in zip(answers, readers, strict=True):
        if len(found) < len(items):
            lines += [f"{path.name} has answers to {len(found):,} of {len(items):,} questions.", ""]
    lines += _naturalness(items, readers)
    lines += _section(
        "Labels",
        "Captions that readers say have their label whatever else the photo shows",
        items,
        readers,
        "truth",
        [lambda i: f"{i.label}, all", lambda i: f"{i.label}, {i.relation}"],
    )
    lines += _section(
        "From text alone",
        "Pairs of which readers find the true caption without the photo; 0.5: the text tells nothing",
        items,
        readers,
        "choice",
        [lambda i: "all", lambda i: f"mirrored: {i.mirrored}" if i.mirrored else i.source, lambda i: i.relation],
    )
    of_label = [lambda i: f"{i.source}, {i.label}", lambda i: f"{i.source}, {i.label}, {i.relation}"]
    lines += _section(
        "Wrong on photos",
        "True captions that are said not to be true of their photo, and false ones that are said to be",
        items,
        readers,
        "photo",
        of_label,
        lambda item, answer: answer == {"true": "no", "false": "yes"}[item.label],
    )
    unclear = "Captions of which it is not clear"
    lines += _section("Not sure on photos", unclear, items, readers, "photo", of_label, lambda _, a: a == "unclear")
    return lines + _agreement(items, readers)


def _naturalness(items: Mapping[str, Item], readers: Sequence[Mapping[str, str]]) -> list[str]:
    marks: dict[str, list[list[int]]] = collections.defaultdict(list)
    for item in items.values():
        if item.question == "natural" and (
            given := [int(answers[item.item]) for answers in readers if item.item in answers]
        ):
            marks[item.source if item.source == "people" else f"{item.source}, {item.label}"].append(given)
    rows = []
    for name, of_name in sorted(marks.items()):
        means = np.array([np.mean(of_item) for of_item in of_name])
        margin = f" ±{_Z * means.std(ddof=1) / len(means) ** 0.5:.2f}" if len(means) > 1 else ""
        good, bad = (
            _share(float(np.mean([np.isin(of_item, counted).mean() for of_item in of_name])), len(means))
            for counted in ((4, 5), (1, 2))
        )
        rows.append((name, len(means), f"{means.mean():.2f}{margin}", good, bad))
    head = ("captions", "number", "mean of 1 to 5", "4 or 5", "1 or 2")
    return ["## Naturalness", "", *pages.table(head, rows), ""] if marks else []


def write_text_alone(folder: Path, answers: Sequence[Path]) -> None:
    """Writes to ``folder`` which share of the bank's pairs the readers told from text alone, by relation and
    ``mirrored``, with its 95% interval. Relations with fewer than ``FEW`` pairs are taken together, as ``other``."""
    items = read_key(folder / "key.tsv")
    found = _grouped(
        items, [read_answers(path, items) for path in answers], "choice", lambda i: (i.mirrored, i.relation), _is_right
    )
    cells: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for (mirrored, relation), shares in found.items():
        if mirrored:  # bindings and positions are not
            cells[mirrored, relation if len(shares) >= FEW else "other"] += shares
    rows: list[tuple[str, ...]] = [("mirrored", "relation", "pairs", "share", "low", "high")]
    for cell, shares in sorted(cells.items()):
        share = float(np.mean(shares))
        if len(shares) >= FEW:
            rows.append((*cell, str(len(shares)), *(f"{value:.4f}" for value in (share, *wilson(share, len(shares))))))
    if cells:
        _write_tsv(folder / TEXT_ALONE, rows)


def _grouped(
    items: Mapping[str, Item],
    readers: Sequence[Mapping[str, str]],
    question: str,
    name: Callable[[Item], _Name],
    counted: Callable[[Item, str], bool],
) -> dict[_Name, list[float]]:
    """Name -> for each of its items with answers, the share of them that are ``counted``; names in order."""
    found: dict[_Name, list[float]] = collections.defaultdict(list)
    for item in items.values():
        given = [answers[item.item] for answers in readers if item.item in answers]
        if item.question == question and given:
            found[name(item)].append(float(np.mean([counted(item, answer) for answer in given])))
    return dict(sorted(found.items()))


def _is_right(item: Item, answer: str) -> bool:
    return answer == item.label


def _section(
    title: str,
    text: str,
    items: Mapping[str, Item],
    readers: Sequence[Mapping[str, str]],
    question: str,
    names: Sequence[Callable[[Item], str]],
    counted: Callable[[Item, str], bool] = _is_right,
) -> list[str]:
    """A table of the share of answers that are ``counted`` (default: right ones), each item with the mean of its
    readers, in the groups of ``names``."""
    shares: dict[str, list[float]] = {}
    for name in names:
        shares |= _grouped(items, readers, question, name, counted)
    rows = [(escape.markdown(name), len(of), _share(float(np.mean(of)), len(of))) for name, of in shares.items()]
    return [f"## {title}", "", f"{text}.", "", *pages.table(("", "number", "share"), rows), ""] if rows else []


def _agreement(items: Mapping[str, Item], readers: Sequence[Mapping[str, str]]) -> list[str]:
    if len(readers) < 2:
        return []
    rows = []
    for question in dict.fromkeys(item.question for item in items.values()):
        of_question = [
            {
                key: answer in ("4", "5") if question == "natural" else answer
                for key, answer in answers.items()
                if items[key].question == question
            }
            for answers in readers
        ]
        alpha, number = agreement.alpha(of_question)
        rows.append((question, number, f"{alpha:.3f}"))
    text = "Krippendorff's alpha (nominal; naturalness: 4 or 5, or less)."
    return ["## Agreement", "", text, "", *pages.table(("question", "items with several readers", "alpha"), rows), ""]


def _share(share: float, number: int) -> str:
    low, high = wilson(share, number)
    return f"{share:.3f} ({low:.3f}-{high:.3f})"


def wilson(share: float, number: int) -> tuple[float, float]:
    """The 95% interval of a share of ``number`` items (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * (share * (1 - share) / number + _Z**2 / (4 * number**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)  # rounding
