"""The rows of a suite's report."""

import csv
import dataclasses
import os
import re

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import main
from naturel_jax.benchmarks import blind, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.cli import suite
from naturel_jax.evaluators import results, scoring
from naturel_jax.training import run as training_run
from tests.helpers import tiny_config
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def runs(**names: str) -> dict[str, c.Config]:
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    config = c.load(raw)
    return {key: dataclasses.replace(config, name=name) for key, name in names.items()}


def test_runs_of_one_name_have_rows_of_their_own():
    assert suite.row_names(runs(a="CLIP", b="NegCLIP")) == {"a": "CLIP", "b": "NegCLIP"}
    assert suite.row_names(runs(a="CLIP", b="CLIP", c="SigLIP")) == {"a": "CLIP (a)", "b": "CLIP (b)", "c": "SigLIP"}


def test_rows_that_would_still_share_a_name_are_refused():
    with pytest.raises(UserError, match=r"runs b, c: their rows would all be called 'CLIP \(b\)'; change config.name"):
        suite.row_names(runs(a="CLIP", b="CLIP", c="CLIP (b)"))


def test_a_report_of_somebody_else_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "report.tex").write_text("mine")
    monkeypatch.setattr(training_run, "run", lambda *_: pytest.fail("a run has begun"))
    with pytest.raises(UserError, match=r"has no runs of this suite, but report\.tex, which .*: use another --workdir"):
        main.run_all(c.Suite(runs(a="CLIP", b="SigLIP"), {}, ""), str(tmp_path))


def test_text_only_row_is_printed(tmp_path, monkeypatch, capsys):
    """Images of five folds, whose true captions all say "yes": text tells everything."""
    images = [Image(f"image {n}", bytes) for n in range(40)]
    items = tuple(Item(str(n), (images[n],), ("yes", "no"), {"kind": "simple"}) for n in range(40))
    metric = Metric("naturel/simple", "right", where=("kind", "simple"))
    benchmark = Benchmark("naturel", items, rules.pair, (metric,), true_captions=1)

    def run(config: c.Config, folder: epath.Path) -> Finished:
        return Finished({"naturel/simple": 0.75}, {}, {}, {}, blind.text_only(benchmark))

    monkeypatch.setattr(training_run, "run", run)
    main.run_all(c.Suite(runs(a="CLIP", b="SigLIP"), {}, ""), str(tmp_path))
    (row,) = {line for line in capsys.readouterr().out.splitlines() if "n-grams" in line}
    assert [cell.strip() for cell in row.split("|") if cell.strip()] == ["*n-grams*", "1.00"]


def test_report_of_runs_is_that_of_their_items(tmp_path, monkeypatch, capsys):
    """NatuRel and a benchmark of one's own, of which ten items were trained on and three are ties."""
    relation = {"kind": "complex", "complex relation": "on"}
    items = tuple(Item(str(n), (Image(f"image {n}", bytes),), ("yes", "no"), relation) for n in range(400))
    by_relation = Metric("naturel/complex/relation/on", "right", where=("complex relation", "on"))
    metrics = Metric("naturel/complex", "right"), by_relation
    naturel = Benchmark("naturel", items, rules.pair, metrics, chance=rules.PAIR)
    mine = Benchmark("mine", items, rules.pair, (Metric("mine/accuracy", "right"),), chance=rules.PAIR)
    right = {"CLIP": 100, "A": 240, "B": 241}  # of 400

    def run(config: c.Config, folder: epath.Path) -> Finished:
        scores, intervals = {}, {}
        for benchmark in (naturel, mine.held_out({str(n) for n in range(10)})):
            matrices = [np.array([[0.2, 0.1 if n < right[config.name] else 0.3]]) for n in range(400)]
            matrices[-3:] = [np.array([[0.2, 0.2]])] * 3
            result = scoring.save(folder / results.FOLDER, config.name, benchmark, "f", (items, matrices, []), {})
            scores |= {name: score["value"] for name, score in result.scores.items()}
            intervals |= {name: (score["low"], score["high"]) for name, score in result.scores.items()}
        return Finished(scores, intervals, {}, {}, {})

    monkeypatch.setattr(training_run, "run", run)
    main.run_all(c.Suite(runs(**{name.lower(): name for name in right}), {}, ""), str(tmp_path))
    text = capsys.readouterr().out.rpartition("**Table 1")[2]
    tables = text.split("**Further benchmarks: mine**")
    for table, best in zip(tables, (["0.60", "0.60"], ["0.59", "0.59"]), strict=True):
        rows = {line.split("|")[1].strip(): line.split("|")[2] for line in table.splitlines() if line.startswith("|")}
        assert [rows[name].split("**")[1].rstrip("†") for name in "AB"] == best and "**" not in rows["CLIP"]
        assert rows["*chance*"].strip() == "0.50"
    assert "CLIP on mine: 3 of 390; CLIP on naturel: 3 of 400; A on mine: 3 of 390;" in text
    page = (tmp_path / "report.md").read_text()
    assert page.startswith(f"# {tmp_path.name}: 3 runs\n")
    assert re.search(r"\| on \| 400 \| 0\.25 ±0\.0\d \| \*\*0\.60\*\* ±0\.0\d \|", page)
    assert "CLIP on mine: 390 items, 10 left out because it was trained on their images (mine/accuracy 0.231 " in page
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    (score,) = [row for row in rows if (row["model"], row["metric"]) == ("CLIP", "mine/accuracy")]
    assert (score["count"], score["with_trained_on"]) == ("390", "0.25")


def test_report_says_which_images_may_have_been_trained_on(tmp_path, monkeypatch):
    """Nothing is known about the second run, which starts from a model without a record."""
    ways = {"images": 5000, "read": 4000, "name": 3, "bytes": 2, "look": 5}
    found = {"a": ({"naturel": 6}, {"naturel": {"items": 94, **ways}}), "b": ({}, {"naturel": {"items": 100}})}

    def run(config: c.Config, folder: epath.Path) -> Finished:
        return Finished({"naturel/simple": 0.75}, {}, *found[folder.name], {})

    monkeypatch.setattr(training_run, "run", run)
    main.run_all(c.Suite(runs(a="CLIP", b="CLIP"), {}, ""), str(tmp_path))
    known = "CLIP (a): 6 of 100 items (3 by name, 2 by bytes, 5 by look; 4,000 of 5,000 training images read)"
    text = (tmp_path / "report.md").read_text()
    assert text.count("## Images that may have been trained on") == 1
    assert f"| {known}; CLIP (b): no record |" in text
    assert "Open Images (train), split by this builder ([source](https://arxiv.org/abs/1811.00982))" in text
    assert f"<div>{known}</div><div>CLIP (b): no record</div>" in (tmp_path / "report.html").read_text()
