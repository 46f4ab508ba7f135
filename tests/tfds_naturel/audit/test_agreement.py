"""Annotators: how pairs are divided among them, what is read from their files, and what these say together."""

import collections
import csv
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET

import krippendorff
import numpy as np
import pytest
import sklearn.metrics

from tests.helpers.pages import embedded
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import agreement, form, label_studio, review
from tfds_naturel.captions import bank, decisions, grammar
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.annotations import Box

CAT, MAN = Triplet("Cat", "on", "Desk"), Triplet("Man", "holds", "Mug")
ANSWERS = {"a": "accept", "r": "reject", "u": "unclear", ".": ""}


@pytest.fixture(scope="module")
def small() -> bank.Bank:
    return {triplet: grammar.write(triplet, np.random.default_rng(n)) for n, triplet in enumerate((CAT, MAN))}


def judged(path, answers, texts, **columns):
    """Writes a file of somebody's answers (``ANSWERS``) about texts of ``CAT``."""
    said = zip(answers, texts, strict=True)
    rows = [{"triplet": str(CAT), "text": text, "decision": ANSWERS[answer]} | columns for answer, text in said]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


# ---- Shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "overlap"), [("anna,ben,carla", 2), ("a,b,c,d", 2), ("a,b,c,d,e", 3), ("a", 1)])
def test_shares_are_even_and_overlap(people, overlap):
    """Everybody gets as many screens, to one; each is seen by ``overlap`` people; all share some with all."""
    names = form.names(people)
    given = form.assign(60, names, overlap, seed=0)
    assert list(given) == names and sum(map(len, given.values())) == 60 * overlap
    assert max(map(len, given.values())) - min(map(len, given.values())) <= 1
    assert set(collections.Counter(itertools.chain(*given.values())).values()) == {overlap}
    assert all(set(given[a]) & set(given[b]) for a, b in itertools.combinations(names, 2))
    again, other = (form.assign(60, names, overlap, seed) for seed in (0, 1))
    assert given == again and (overlap == len(names) or given != other)


def test_a_sample_has_the_relations_of_all_and_shares_are_in_the_page(small, tmp_path, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    command = ["--bank", str(tmp_path / "bank.tsv"), "--review", str(tmp_path / "out")]
    audit.main([*command, "--sample", "4", "--assign", "anna, ben", "--overlap", "1"])
    assert "review.html: 4 pairs, 0 triplets with photos; anna: 2; ben: 2\n" in capsys.readouterr().out
    data = embedded(tmp_path / "out" / "review.html", "form")
    assert [screen["title"] for screen in data["screens"]] == [str(CAT)] * 2 + [str(MAN)] * 2
    assert sorted(data["people"]["anna"] + data["people"]["ben"]) == [0, 1, 2, 3]
    for flags, match in {
        ("--sample", "9"): r"--sample 9: expected a number from 1 to 8",
        ("--assign", "anna", "--overlap", "2"): r"overlap 2: expected a number from 1 to 1",
        ("--assign", "anna,,ben"): r"name '': expected 1 to 60 printable characters",
        ("--assign", "anna,anna"): r"name 'anna' is repeated",
    }.items():
        with pytest.raises(UserError, match=match):
            audit.main([*command, *flags])


# ---- Agreement -------------------------------------------------------------------------------------------------------


def test_alpha_of_the_published_example():
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section B: binary data, two observers."""
    people = [dict(enumerate(answers)) for answers in ("0100000000", "1110010100")]
    assert agreement.alpha(people) == (pytest.approx(0.095, abs=5e-4), 10)
    assert math.isnan(agreement.alpha([people[0], {}])[0]) and agreement.alpha([people[0], people[0]]) == (1, 10)
    assert agreement.alpha([dict(enumerate("11"))] * 2) == (1, 2)


def test_statistics_of_sums_are_those_of_the_libraries():
    rng, verdicts = np.random.default_rng(0), len(decisions.VERDICTS)
    judged = [rng.integers(verdicts, size=(captions, 2)) for captions in (1, 2, 7, 200)]
    kappas = [sklearn.metrics.cohen_kappa_score(*pairs.T) for pairs in judged[2:]]
    sums = np.stack([agreement.KAPPA.terms(pairs).sum(axis=0) for pairs in judged[2:]])
    np.testing.assert_allclose(agreement.KAPPA.of(sums), kappas, rtol=0, atol=1e-12)
    counts = [2 * (rows == 0) + rng.integers(3, size=rows.shape) for rows in map(np.atleast_2d, judged[2:])]
    counts = [rows[rows.sum(axis=1) > 1] for rows in counts]
    alphas = [krippendorff.alpha(value_counts=rows, level_of_measurement="nominal") for rows in counts]
    sums = np.stack([agreement.ALPHA.terms(rows).sum(axis=0) for rows in counts])
    np.testing.assert_allclose(agreement.ALPHA.of(sums), alphas, rtol=0, atol=1e-12)
    for statistic, rows in ((agreement.KAPPA, np.ones((3, 2), int)), (agreement.ALPHA, np.array([[0, 2], [0, 3]]))):
        assert statistic.of(statistic.terms(rows).sum(axis=0)[None]) == 1, "all the same"


def test_a_row_for_each_of_many_relations_and_a_limit_of_people(tmp_path):
    said = [f"a|r{n}|b,x,{word},{name}" for n in range(1000) for name, word in (("ann", "accept"), ("ben", "reject"))]
    file = tmp_path / "many.csv"
    file.write_text("\n".join(["triplet,text,decision,annotator", *said]))
    lines = agreement.report(decisions.read([file]))
    # Of 2,000 judgements, half accept, half reject, and nobody agrees; of one relation, both differ.
    expected = 1 - 1 / (2 * 1000 * 1000 / (2000 * 1999))
    assert f"| all | 1000 | {expected:.3f} | {expected:.3f} to {expected:.3f} |" in lines
    assert sum("| 1 | 0.000 | 0.000 to 0.000 |" in line for line in lines) == 1000
    people = [f"a|on|b,x,accept,{n}" for n in range(51)]
    file.write_text("\n".join(["triplet,text,decision,annotator", *people]))
    with pytest.raises(UserError, match=r"of 51 people; expected at most 50: give fewer files"):
        agreement.report(decisions.read([file]))


def test_interval_resamples_triplets_in_whatever_order_their_captions_are():
    """Judgements of a triplet agree or differ together, so the interval is wider than that of captions alone."""
    triplets = [Triplet(name, "on", "Desk") for name in ("Cat", "Dog", "Man", "Mug")]
    rows = ([2, 0], [0, 2], [1, 1], [1, 1])
    counts = {(t, str(n)): row for n in range(6) for t, row in zip(triplets, rows, strict=True)}
    low, high = agreement.interval(counts, agreement.ALPHA)
    assert (low, high) == agreement.interval(dict(sorted(counts.items())), agreement.ALPHA)
    captions = {(Triplet(str(n), "on", "Desk"), ""): row for n, row in enumerate(counts.values())}
    alone = agreement.interval(captions, agreement.ALPHA)
    assert high - low > alone[1] - alone[0]


def test_the_majority_counts_and_ties_are_unclear():
    said = [decisions.Decision(ANSWERS[a]) for a in "aarrarruarua"]
    people = [dict(enumerate(said[n : n + 4])) for n in (0, 4, 8)]
    assert list(decisions.majority(people).values()) == ["accept", "reject", "reject", "unclear"]


def test_agreement_disagreements_and_adjudication(small, tmp_path, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    texts = [caption.text for caption in small[CAT]]
    files = [
        judged(tmp_path / "1.csv", "aaaarrr.", texts, annotator="anna", reason="=1+1"),
        judged(tmp_path / "2.csv", "aaarrra.", texts, annotator="ben", reason=""),
    ]
    command = ["--bank", str(tmp_path / "bank.tsv"), "--agreement", str(tmp_path / "out"), "--decisions"]
    audit.main([*command, *map(str, files)])
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out
    # Of 14 judgements, 8 accept and 6 reject; two of seven captions differ.
    observed, chance = 2 / 7, 2 * 8 * 6 / (14 * 13)
    assert f"| on | 7 | {1 - observed / chance:.3f} |" in report
    expected = 1 - observed / (1 - (4 * 4 + 3 * 3) / 49)  # both accept four and reject three
    kappa = f"{expected:.3f}"  # all captions are of one triplet, so resampling triplets changes nothing
    assert f"| anna and ben | 7 | {5 / 7:.3f} | {kappa} | {kappa} to {kappa} |" in report
    assert "not in the bank" not in report
    rows = list(csv.DictReader((tmp_path / "out" / "disagreements.csv").read_text().splitlines()))
    assert [row["text"] for row in rows] == sorted([texts[3], texts[6]])
    assert {row["said"] for row in rows} == {"anna: accept (=1+1); ben: reject", "anna: reject (=1+1); ben: accept"}
    page = (tmp_path / "out" / "adjudicate.html").read_text()
    assert "<h1>NatuRel captions: decide where people differ</h1>" in page and "do not ask others" not in page
    screens = embedded(tmp_path / "out" / "adjudicate.html", "form")["screens"]
    noted = {q["texts"][0]: q["note"] for screen in screens for q in screen["questions"]}
    assert noted == {row["text"]: row["said"] for row in rows}
    merged = tmp_path / "out" / "decisions.csv"
    assert decisions.rejected([merged]) == {(CAT, texts[4]), (CAT, texts[5])}

    decided = judged(tmp_path / "3.csv", "r", [texts[3]], annotator="carla", reason="no")
    audit.main([*command, *map(str, files), "--adjudicated", str(decided)])
    assert "\n2 captions are disputed (`adjudicate.html`), and 1 of them are left to dec" in capsys.readouterr().out
    assert (tmp_path / "out" / "adjudicate.html").read_text() == page, "whoever has decided some continues"
    assert decisions.rejected([merged]) == {(CAT, texts[n]) for n in (3, 4, 5)}
    both = f"{CAT},{texts[3]},reject,carla\n{CAT},{texts[3]},accept,dora\n"
    decided.write_text(f"triplet,text,decision,annotator\n{both}")
    with pytest.raises(UserError, match=r"--adjudicated .*3.csv: carla and dora decide the same caption"):
        audit.main([*command, *map(str, files), "--adjudicated", str(decided)])
    with pytest.raises(UserError, match=r"no caption was judged by two people \(anna\)"):
        audit.main([*command, str(files[0])])
    changed = [judged(tmp_path / f"{name}.csv", "a", [f"{texts[0]}!"], annotator=name) for name in "xy"]
    audit.main([*command, *map(str, changed)])
    assert f"1 captions are not in the bank, such as `{CAT}: {texts[0]}!`" in capsys.readouterr().out


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("triplet,text,decision\nCat on Desk,a cat,accept\n", r"a.csv:2: triplet 'Cat on Desk': expected 'subject"),
        ("triplet,text,decision\nA|on|B,x,\nA|on|B,x,yes\n", r"a.csv:3: decision 'yes'; expected accept, reject, "),
        ("triplet,text,decision,reason\nA|on|B,x,reject," + "y" * 1001, r"a.csv:2: reason has more than 1000 char"),
        ('triplet,text,decision\nA|on|B,"=1+1",accept\n', r"a.csv:2: text '=1\+1' begins like a formula"),
        ('triplet,text,decision\n"=1|on|B",x,accept\n', r"a.csv:2: triplet '=1\|on\|B' begins like a formula"),
        ("triplet,text,decision\nA|on|B,x,accept,ben\n", r"a.csv: not a readable table \(line 2 has 4 cells; the head"),
        ("triplet,text,decision\nA|on|B,x,\n", r"a.csv: has no decision; expected one of each caption that was judged"),
        ("triplet,text\n", r"a.csv:1: columns \['triplet', 'text'\]; missing \['decision'\]"),
        ("x" * (decisions.MAX_BYTES + 1), r"a.csv: 16,777,217 bytes; expected at most 16,777,216"),
    ],
)
def test_bad_files_are_refused_by_row(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        decisions.read([tmp_path / "a.csv"])


def test_rows_are_by_their_annotator_and_the_worst_of_one_person_counts(tmp_path):
    first = judged(tmp_path / "a.csv", "arau", ["x", "x", "y", "y"], annotator="anna")
    assert decisions.read([first]) == {"anna": {(CAT, "x"): ("reject", ""), (CAT, "y"): ("unclear", "")}}
    second = judged(tmp_path / "b.csv", "a", ["x"])
    assert set(decisions.read([first, second])) == {"anna", "b"}
    for separator in ";\t":  # as spreadsheets write it
        (tmp_path / "d.csv").write_text(first.read_text().replace(",", separator))
        assert decisions.read([tmp_path / "d.csv"]) == decisions.read([first])
    third = judged(tmp_path / "c.csv", "a", ["x"], annotator="anna")
    with pytest.raises(UserError, match=r"c.csv: decisions of 'anna', as in .*a.csv; give one file of each person"):
        decisions.read([first, third])
    merged = tmp_path / "merged.csv"
    merged.write_text(f"{first.read_text()}{CAT},x,accept,ben\n{CAT},x,,dora\n")
    assert decisions.read([merged]) == decisions.read([first]) | {"ben": {(CAT, "x"): ("accept", "")}}


def test_a_flipped_bit_of_an_exported_file_is_found_or_changes_nothing(tmp_path):
    """But for the name of the column of checksums, after which the cells are as they were."""
    path = tmp_path / "decisions.csv"
    rows = [(str(CAT), "a, b", "reject", ""), (str(MAN), "c", "accept", "")]
    agreement.write(path, (*decisions.COLUMNS, "reason"), rows)
    whole, expected = path.read_bytes(), decisions.read([path])
    assert decisions.rejected([path]) == {(CAT, "a, b")}
    refused = 0
    for n in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[n // 8] ^= 1 << n % 8
        path.write_bytes(flipped)
        try:
            assert decisions.read([path]) == expected, bytes(flipped)
        except UserError:
            refused += 1
    assert refused > 8 * len(whole) / 2
    edited = whole.decode().replace("reject", "accept")
    path.write_text(edited)
    with pytest.raises(UserError, match=r"decisions.csv:2: the cells are not those that were exported \(checksum"):
        decisions.read([path])
    path.write_text(re.sub("crc32:.*", "", edited))
    assert decisions.rejected([path]) == set(), "somebody has looked"


def exported(tasks, answers):
    """The tasks as Label Studio exports them (labelstud.io/guide/export, JSON): ``answers`` has, for each task, the
    annotations of some people as {control: choice or text}."""

    def result(name, value):
        kind, field = ("textarea", "text") if name.endswith("reason") else ("choices", "choices")
        return {"id": "x", "from_name": name, "to_name": "t", "type": kind, "value": {field: [value]}}

    def annotation(number, who, values):
        results = [result(*one) for one in (values or {}).items()]
        return {"id": number, "completed_by": who, "was_cancelled": values is None, "result": results}

    numbered = enumerate(zip(tasks, answers, strict=True), 1)
    return [
        task | {"id": n, "annotations": [annotation(10 * n + k, *one) for k, one in enumerate(of_task)]}
        for n, (task, of_task) in numbered
    ]


def test_label_studio_there_and_back(small, tmp_path):
    screens = review.screens(small)[:2]
    shown = {CAT: [review.Shown("0", "data:,", Box(0.1, 0.5, 0.2, 0.6), Box(0.3, 0.9, 0.4, 1))]}
    tasks = label_studio.tasks(screens, shown)
    (boxes,) = (prediction["result"] for prediction in tasks[0]["predictions"])
    corners = {"x": 30, "y": 40, "width": pytest.approx(60), "height": pytest.approx(60)}
    assert boxes[1]["value"] == corners | {"rotation": 0, "rectanglelabels": ["object"]}
    controls = {node.get("name"): node for node in ET.fromstring(label_studio.config()).iter() if node.get("name")}
    assert all(node.get("value", "$")[1:] in {"", *tasks[0]["data"]} for node in controls.values())
    assert all(node.get("toName", "photo") in controls for node in controls.values())
    assert {(box["from_name"], box["to_name"]) for box in boxes} == {("box", "photo")} and "box" in controls

    anna, ben = {"id": 7, "email": "anna@example.org"}, 3
    both = {"positive": "accept", "negative": "reject", "negative_reason": "odd"}
    answers = [[(anna, both), (ben, {"positive": "unclear"})], [(ben, None)]]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(exported(tasks, answers)))
    true, false = (question.texts[0] for question in screens[0].questions)
    assert decisions.read([path]) == {
        "anna@example.org": {(CAT, true): ("accept", ""), (CAT, false): ("reject", "odd")},
        "user 3": {(CAT, true): ("unclear", "")},
    }
    for content, message in {
        "{}": r"export.json: the file is {}; expected a list of Label Studio's JSON",
        '[{"data": 1}]': r"export.json: task 1: data is 1; expected an object",
        '[{"data": {}, "annotations": [{"result": [{"value": {"choices": [3]}}]}]}]': r"task 1: a choice is 3; exp",
        json.dumps(exported(tasks, [[(ben, {"positive": "yes"})], []])): r"task 1: decision 'yes'; expected accept",
        "[" * 100_000: r"export.json: not JSON \(nested too deeply\); export it from Label Studio again",
        '["\\ud800"]': r"export.json: has half of a surrogate pair",
    }.items():
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            decisions.read([path])
