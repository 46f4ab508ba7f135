"""The audit's section on text-only attacks, and SugarCrepe's pairs."""

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
    """SugarCrepe's swap_obj.json: three pairs of two images."""
    rows = {
        n: {"filename": f"{n // 2}.jpg", "caption": true, "negative_caption": false}
        for n, (true, false) in enumerate(CAPTIONS)
    }
    (tmp_path / "swap_obj.json").write_text(json.dumps(rows))
    return tmp_path


def test_pairs_of_sugarcrepe(files):
    by_image = [Pair(*captions, group=f"{n // 2}.jpg") for n, captions in enumerate(CAPTIONS)]
    assert other_benchmarks.sugarcrepe(files) == {"swap_obj": by_image}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", r"found \[\], expected an object of items"),
        (b"{}", "expected items of at least two images, found 0"),
        (b'{"7": 1}', "item '7' is 1, expected an object with caption, negative_caption, filename"),
        (b'{"7": {"filename": "a.jpg"}}', "item '7' has caption None, expected a string"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path, content, match):
    (tmp_path / "replace_rel.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/replace_rel\.json: {match}"):
        other_benchmarks.sugarcrepe(tmp_path)


def test_a_folder_without_sugarcrepe_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of SugarCrepe's files"):
        other_benchmarks.sugarcrepe(tmp_path)


def test_the_audit_reports_the_attacks(small, files, tmp_path, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    given = {"bank": tmp_path / "bank.tsv", "out": tmp_path / "out", "sugarcrepe": files}
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
