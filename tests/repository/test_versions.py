"""What release 0.1.0 wrote is read. ``fixtures/run_0.1.0.tar.gz`` has a tiny CLIP (``micro``), the first 4 of 8 steps
of training it on ``naturel/tiny`` (``run``), and the metrics and scores of all 8, computed on one device."""

import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.config import versions
from naturel_jax.training import run
from naturel_jax.weights import runs
from tests.helpers import fixtures, tiny_config
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    fixtures.unpack("run_0.1.0", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config() -> c.Config:
    """That of the run, elsewhere."""
    raw = tiny_config.get_config()
    raw.name, raw.preset, raw.init, raw.data.dir = "micro", "", "micro", os.fspath(data_dir())
    raw.duration, raw.checkpoint.every, raw.eval.during.naturel = "8 steps", "2 steps", "4 steps"
    raw.optim.update({"lr": 1e-2, "warmup": "2 steps", "ema": 0.5})
    raw.eval.benchmarks = ("naturel",)
    return c.load(raw)


def losses(path: str) -> list[float]:
    return [row["train/loss"] for row in storage.read_json_lines(epath.Path(path)) if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_of_the_first_release_goes_on_as_it_would_have(folder):
    scores = run.run(config(), folder / "run").scores
    assert len(losses("run/metrics.jsonl")) == 8
    np.testing.assert_allclose(losses("run/metrics.jsonl"), losses("finished_metrics.jsonl"), rtol=1e-4)
    assert scores == pytest.approx(storage.read_json(epath.Path("finished_scores.json"))["scores"], abs=0.05)
    assert runs.trained_on("run").images == 200


def test_configs_and_checkpoints_of_other_versions_are_refused(folder):
    saved = storage.read_json(epath.Path("run/config.json"))["config"]
    assert versions.from_json(saved).eval.during == {"naturel": "4 steps"}
    for other in (2, 4, "3", None):
        with pytest.raises(UserError, match=rf"its config has version {other!r}; this naturel_jax reads 3: install"):
            versions.from_json(saved | {"version": other})
