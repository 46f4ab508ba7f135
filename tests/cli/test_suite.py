"""The rows of a suite's report."""

import dataclasses

import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import main
from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.cli import suite
from naturel_jax.evaluators import blind
from naturel_jax.training import run as training_run
from tests.helpers import tiny_config
from tfds_naturel.common.errors import UserError


def runs(**names: str) -> dict[str, c.Config]:
    config = c.load(tiny_config.get_config())
    return {key: dataclasses.replace(config, name=name) for key, name in names.items()}


def test_runs_of_one_name_have_rows_of_their_own():
    assert suite.row_names(runs(a="CLIP", b="NegCLIP")) == {"a": "CLIP", "b": "NegCLIP"}
    assert suite.row_names(runs(a="CLIP", b="CLIP", c="SigLIP")) == {"a": "CLIP (a)", "b": "CLIP (b)", "c": "SigLIP"}


def test_rows_that_would_still_share_a_name_are_refused():
    with pytest.raises(UserError, match=r"runs b, c: their rows would all be called 'CLIP \(b\)'; change config.name"):
        suite.row_names(runs(a="CLIP", b="CLIP", c="CLIP (b)"))


def test_text_only_row_is_printed(tmp_path, monkeypatch, capsys):
    """Images of five folds, whose true captions all say "yes": text tells everything."""
    images = [Image(f"image {n}", bytes) for n in range(40)]
    items = tuple(Item(str(n), (images[n],), ("yes", "no"), {"kind": "simple"}) for n in range(40))
    metric = Metric("naturel/simple", "right", where=("kind", "simple"))
    benchmark = Benchmark("naturel", items, rules.pair, (metric,), true_captions=1)

    def run(config: c.Config, folder: epath.Path) -> Finished:
        text_only = blind.text_only(benchmark) if folder.name == "b" else {}  # an earlier version's has none
        return Finished({"naturel/simple": 0.75}, {}, {}, {}, text_only)

    monkeypatch.setattr(training_run, "run", run)
    main.run_all(c.Suite(runs(a="CLIP", b="SigLIP"), {}, ""), str(tmp_path))
    (row,) = {line for line in capsys.readouterr().out.splitlines() if "n-grams" in line}
    assert [cell.strip() for cell in row.split("|") if cell.strip()] == ["*n-grams*", "1.00"]


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
