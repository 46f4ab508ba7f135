"""The audit's section on text-only attacks, and the pairs of other benchmarks."""

import dataclasses
import json

import numpy as np
import pytest

from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import attack, attack_report, other_benchmarks
from tfds_naturel.audit.attack import Pair
from tfds_naturel.captions import bank, grammar, relations
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet

CAPTIONS = ("A dog on a car.", "A car on a dog."), ("A man by a van.", "A van by a man."), ("A cat.", "No cat.")


@pytest.fixture
def small() -> bank.Bank:
    triplets = [Triplet("Cat", "on", "Desk"), Triplet("Man", "holds", "Mug"), Triplet("Dog", "on", "Chair")]
    return {triplet: grammar.write(triplet, np.random.default_rng(n)) for n, triplet in enumerate(triplets)}


@pytest.fixture
def files(tmp_path):
    """SugarCrepe's swap_obj.json, ARO's and Winoground's files: the same three pairs of two images in each."""
    rows = [(f"{n // 2}.jpg", true, false) for n, (true, false) in enumerate(CAPTIONS)]
    names = {"swap_obj.json": ("filename", "caption", "negative_caption")}
    names["aro.json"] = ("image_path", "true_caption", "false_caption")
    items = {file: [dict(zip(fields, row, strict=True)) for row in rows] for file, fields in names.items()}
    (tmp_path / "swap_obj.json").write_text(json.dumps(dict(enumerate(items["swap_obj.json"]))))
    (tmp_path / "aro.json").write_text(json.dumps(items["aro.json"]))
    lines = [json.dumps({"id": n, "caption_0": true, "caption_1": false}) for n, (true, false) in enumerate(CAPTIONS)]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_pairs_of_other_benchmarks(files):
    by_image = [Pair(*captions, group=f"{n // 2}.jpg") for n, captions in enumerate(CAPTIONS)]
    assert other_benchmarks.sugarcrepe(files) == {"swap_obj": by_image}
    assert other_benchmarks.aro_relation(files / "aro.json") == by_image
    both = other_benchmarks.winoground(files / "examples.jsonl")
    assert both[:2] == [Pair(*CAPTIONS[0], "0"), Pair(*CAPTIONS[0][::-1], "0")] and len(both) == 6


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", r"bad.*: not JSON"),
        (b"\xff", r"bad.*: not JSON"),
        (b'"text"', r"bad.*found a string|item 1 is a string"),
        (b"[]", r"found a list|at least two images, found 0|item 1 is a list"),
        (
            b'[{"image_path": "a", "true_caption": 1}]',
            r"found a list|item 0 has true_caption 1, expected a string|item 1",
        ),
        (b'{"7": {"filename": "a.jpg"}}', r"item '7' has caption None|found an object|item 1 has caption_0 None"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path, content, match):
    (tmp_path / "replace_rel.json").write_bytes(content)
    (tmp_path / "bad.json").write_bytes(content)
    for read, path in (
        (other_benchmarks.sugarcrepe, tmp_path),
        (other_benchmarks.aro_relation, tmp_path / "bad.json"),
        (other_benchmarks.winoground, tmp_path / "bad.json"),
    ):
        with pytest.raises(UserError, match=match.replace("bad.*", "(bad|replace_rel).*")) as error:
            read(path)
        assert str(tmp_path) in str(error.value)


def test_a_folder_without_sugarcrepe_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of SugarCrepe's files"):
        other_benchmarks.sugarcrepe(tmp_path)


def test_the_audit_reports_the_attacks(small, files, tmp_path, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    others = {"sugarcrepe": files, "aro": files / "aro.json", "winoground": files / "examples.jsonl"}
    given = {"bank": tmp_path / "bank.tsv", "out": tmp_path / "out", **others}
    audit.main([f"--{name}={path}" for name, path in given.items()])
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("|")]
    for grouping in ("triplet", "object", "relation"):
        views = [row[1] for row in rows if row[0] == grouping and len(row) == 4 and row[1] != "pairs"]
        assert views == ["masked", "raw", "style"]
    assert ["relation `on`", "6"] in [row[:2] for row in rows]
    negatives = [caption.operation for captions in small.values() for caption in captions[3::2]]
    assert [f"operation `{negatives[0]}`", str(negatives.count(negatives[0]))] in [row[:2] for row in rows]
    assert ["SugarCrepe swap_obj", "3", "raw"] in [row[:3] for row in rows]
    assert ["ARO VG-Relation", "3", "masked"] in [row[:3] for row in rows]
    winoground = [row[3:] for row in rows if row[0] == "Winoground"]
    assert winoground == [["0.500 (0.500-0.500)"] * 2] * 2  # each caption is true once and false once


def test_the_audit_tells_mirrored_pairs_apart(monkeypatch):
    monkeypatch.delitem(attack.MODELS, "boosting")  # slow
    on, under = Triplet("Cat", "on", "Desk"), Triplet("Cat", "under", "Desk")
    claims = {on: under, under: Triplet("Cat", "beside", "Desk")}
    listed = {
        triplet: tuple(
            dataclasses.replace(c, asserts=claims[triplet]) if c.polarity == "negative" else c
            for c in grammar.write(triplet, np.random.default_rng(0))
        )
        for triplet in claims
    }
    pairs, views = attack_report.bank_pairs(listed), attack_report.bank_views(listed)
    assert [pair.mirrored for pair in pairs] == ["yes"] * 3 + ["no"] * 3
    converse = {Triplet("Desk", "on", "Cat")}
    assert relations.is_mirrored(under, converse) and not relations.is_mirrored(None, converse)
    lines = attack_report.section(pairs, attack_report.attack_all(pairs, views), views, {})
    assert {"| `on` | 3 | 1.00 |", "| `under` | 3 | 0.00 |", "| all | 6 | 0.50 |"} <= set(lines)
    rows = [line.split(" | ")[:3] for line in lines if line.startswith(("| yes", "| no"))]
    assert rows == [[f"| {value}", view, "3"] for value in ("yes", "no") for view in views]
