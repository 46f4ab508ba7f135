"""Questions to readers about captions, and what their answers say."""

import collections
import re

import pytest

from tests.helpers.pages import embedded, table
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import readers
from tfds_naturel.audit.attack import Pair
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import read_tsv

PAIRS = [
    Pair(f"true {n}", f"false {n}", f"Cat|{relation}|Desk", relation, "swap", ("yes", "no")[n % 2])
    for n, relation in enumerate(["on"] * 30 + ["is_on"] * 60)
]
PEOPLE = [f"a person's {n}" for n in range(20)]


def test_the_sample_has_the_relations_of_all_and_hides_the_labels(tmp_path):
    items = readers.sample(PAIRS, PEOPLE, captions=24, choices=12, seed=0)
    by_question = collections.defaultdict(list)
    for item in items:
        by_question[item.question].append(item)
    assert {question: len(of) for question, of in by_question.items()} == {"natural": 30, "truth": 24, "choice": 12}
    assert collections.Counter(i.relation for i in by_question["choice"]) == {"on": 4, "is_on": 8}
    assert collections.Counter(i.label for i in by_question["truth"]) == {"true": 12, "false": 12}
    assert sum(i.source == "people" for i in by_question["natural"]) == 6
    assert all(i.first.split()[0] == i.label for i in by_question["truth"])
    assert all((i.first, i.second)[int(i.label) - 1].startswith("true") for i in by_question["choice"])
    shown_together = {text.split()[1] for i in by_question["choice"] for text in (i.first, i.second)}
    assert not shown_together & {i.first.split()[1] for i in by_question["truth"]}
    assert readers.sample(PAIRS, PEOPLE, 24, 12, 0) == items != readers.sample(PAIRS, PEOPLE, 24, 12, 1)

    readers.write(tmp_path, items)
    rows = read_tsv(tmp_path / "questions.tsv")
    assert [row["item"] for row in rows] == [item.item for item in items]
    assert set(rows[0]) == {"item", "question", "about", "first", "second", "answer"}
    abouts = {question: {row["about"] for row in rows if row["question"] == question} for question in by_question}
    assert abouts == {"natural": {""}, "choice": {""}, "truth": {"Cat on Desk", "Cat is on Desk"}}
    screens = embedded(tmp_path / "questions.html", "form")["screens"]
    assert [question["row"] | {"answer": ""} for screen in screens for question in screen["questions"]] == rows
    with pytest.raises(UserError, match=r"80 captions and 12 pairs of 90 pairs: ask for fewer"):
        readers.sample(PAIRS, PEOPLE, 80, 12, 0)


def answer(path, items, of):
    """Writes the answers to a copy of the table, or as the page does (``.csv``)."""
    mark = "," if path.suffix == ".csv" else "\t"
    path.write_text(f"item{mark}answer\n" + "".join(f"{item.item}{mark}{of(item)}\n" for item in items))
    return path


def test_answers_are_scored_by_hand_counts(tmp_path):
    items = readers.sample(PAIRS, PEOPLE, captions=24, choices=12, seed=0)
    readers.write(tmp_path, items)

    def perfect(item):
        if item.question != "natural":
            return item.label
        return "5" if item.source == "people" else {"true": "2", "false": "4"}[item.label]

    def doubtful(item):
        """Says that all captions are true, chooses the first, and leaves naturalness open."""
        return {"natural": "", "truth": "true", "choice": "1"}[item.question]

    files = [answer(tmp_path / "a.tsv", items, perfect), answer(tmp_path / "b.csv", items, doubtful)]
    audit.main(["--readers", str(tmp_path), "--score", *map(str, files)])
    rows = table(tmp_path / "answers.md")
    assert rows["people"][:2] == ["6", "5.00 ±0.00"] and rows["ours, false"][:2] == ["12", "4.00 ±0.00"]
    all_or_none = ["1.000 (0.757-1.000)", "0.000 (0.000-0.243)"]  # Wilson's intervals of 12 and of 0 of 12
    assert rows["ours, false"][2:] == all_or_none and rows["ours, true"][1:] == ["2.00 ±0.00", *all_or_none[::-1]]
    assert rows["true, all"][:2] == ["12", all_or_none[0]]
    assert rows["false, all"][1].startswith("0.500 (")  # one reader is right and the other wrong
    first = sum(item.label == "1" for item in items if item.question == "choice")
    assert rows["all"][:1] == ["12"] and rows["all"][1].startswith(f"{(12 + first) / 24:.3f}")
    assert rows["mirrored: yes"][0] == str(sum(i.mirrored == "yes" for i in items if i.question == "choice"))
    # 12 items of two "true", 12 of "true" and "false": 24 differing ordered pairs; by chance 2 * 36 * 12 / 47.
    assert rows["truth"] == ["24", f"{1 - 24 / (2 * 36 * 12 / 47):.3f}"] and rows["natural"] == ["0", "nan"]


def test_what_is_written_does_not_follow_a_link(tmp_path):
    """Into a folder that came from elsewhere."""
    items, folder, others = readers.sample(PAIRS, PEOPLE, 24, 12, 0), tmp_path / "study", tmp_path / "file"
    readers.write(folder, items)
    others.write_text("somebody's")
    for name in ("answers.md", "text_alone.tsv"):
        (folder / name).symlink_to(others)
    said = {"natural": "", "truth": "true", "choice": "1"}
    answers = answer(tmp_path / "a.tsv", items, lambda item: said[item.question])
    audit.main(["--readers", str(folder), "--score", str(answers)])
    assert others.read_text() == "somebody's" and not (folder / "answers.md").is_symlink()


def test_answers_to_other_questions_of_the_same_names_are_refused(tmp_path):
    """A browser keeps them apart by the page's digest, and a file has the texts, in whatever quotation marks."""
    digests = []
    for seed in (0, 1):
        readers.write(tmp_path / str(seed), readers.sample(PAIRS, PEOPLE, 24, 12, seed))
        digests.append(embedded(tmp_path / str(seed) / "questions.html", "form")["digest"])
    assert digests[0] != digests[1]
    table = (tmp_path / "0" / "questions.tsv").read_text()
    (tmp_path / "a.tsv").write_text(re.sub(r"\t(.*)\t\t\n", r"\t\1\t\t5\n", table, count=1).replace("'", "\u2019"))
    asked = len(readers.read_key(tmp_path / "0" / "key.tsv"))
    assert f"a.tsv has answers to 1 of {asked} questions." in readers.report(tmp_path / "0", [tmp_path / "a.tsv"])
    with pytest.raises(UserError, match=r"a.tsv:2: first of natural-1 is '.*', in the key '.*'; are these other quest"):
        readers.report(tmp_path / "1", [tmp_path / "a.tsv"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("item\tanswer\nnatural-1\t6\n", r"a.tsv:2: answer '6'; expected 1, 2, 3, 4, 5 or nothing"),
        ("item\tanswer\nnatural-1\t1\nnatural-1\t5\n", r"a.tsv:3: a second answer to 'natural-1'"),
        ("item\tanswer\nnatural-99\t1\n", r"a.tsv:2: item 'natural-99' is not in the key; are these other questions"),
        ("item,answer\nnatural-1,1\n", r"a.tsv:1: has no item; expected the columns item and answer, tab-sep"),
        ("item\tanswer\nnatural-1\t\n", r"a.tsv: has no answer; .* leave the file out"),
        ("item\tanswer\nnatural-1\t1\t5\n", r"a.tsv: not a readable table \(line 2 has 3 cells; the header has 2"),
    ],
)
def test_malformed_answers_are_refused_by_row(tmp_path, rows, message):
    readers.write(tmp_path, readers.sample(PAIRS, PEOPLE, 24, 12, 0))
    (tmp_path / "a.tsv").write_text(rows)
    with pytest.raises(UserError, match=message):
        readers.report(tmp_path, [tmp_path / "a.tsv"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\ttrue\t", b"\t\xff\t", r"key.tsv: not UTF-8"),
        (b"\ttrue\t", b"\t%s\t" % (b"a" * 200_000), r"key.tsv: not a readable table \(field larger"),
        (b"\tsource\n", b"\tby\n", r"key.tsv: has the columns item, .*mirrored, by; expected item, .*mirrored, source"),
        (b"\tsource\n", b"\tsource\tx\n", r"key.tsv: not a readable table \(line 2 has 9 cells; the header has 10\)"),
        (b"\tnatural\t", b"\tnature\t", r"key.tsv: natural-1: question 'nature'; expected natural, truth, choice"),
    ],
)
def test_malformed_keys_are_refused_in_one_line(tmp_path, old, new, message):
    readers.write(tmp_path, readers.sample(PAIRS, PEOPLE, 24, 12, 0))
    (tmp_path / "key.tsv").write_bytes((tmp_path / "key.tsv").read_bytes().replace(old, new))
    (tmp_path / "a.tsv").write_text("item\tanswer\nnatural-1\t1\n")
    with pytest.raises(UserError, match=message):
        readers.report(tmp_path, [tmp_path / "a.tsv"])


def test_questions_about_the_published_bank(tmp_path, capsys):
    audit.main(["--readers", str(tmp_path), "--captions", "33", "--pairs", "33"])
    assert f"{tmp_path}: 99 questions; readers need" in capsys.readouterr().out
    assert {row["relation"] for row in read_tsv(tmp_path / "key.tsv")} >= {"holds", "on", "is", "interacts_with"}
