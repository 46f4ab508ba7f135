"""Runs in earlier formats can be continued and evaluated.

``fixtures/run_version_0.tar.gz`` was written by commit 4e3889c, before configs and checkpoints had versions. It
contains a tiny CLIP (``micro``) and the first 4 of 8 steps of training it on ``naturel/tiny`` (``run``), with the
metrics of all 8 steps and the final scores (``finished_scores.json``), computed by that commit on one device.
``fixtures/world_2.0.0.tar.gz`` is that dataset (its training and test splits) as commit 4a17414 drew it, with the same
images and captions.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.config import versions
from tests.helpers.worlds import ROOT

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONFIG = """
from tests.helpers import tiny_config

def get_config():
    config = tiny_config.get_config()
    config.name, config.preset, config.init, config.data.dir = "micro", "", "run:micro", "data"
    config.duration, config.checkpoint.every, config.eval.during.naturel = "8 steps", "4 steps", "4 steps"
    config.optim.update({"lr": 1e-2, "warmup": "2 steps", "ema": 0.5})
    config.eval.benchmarks = ("naturel",)
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("version_0")
    for name, place in (("run_version_0", folder), ("world_2.0.0", folder / "data")):
        with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
            archive.extractall(place, filter="data")
    (folder / "config.py").write_text(CONFIG)
    return folder


def command(folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    started, environment = [sys.executable, "-m", *arguments], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_unversioned_run_continues_with_the_same_results(folder):
    expected = storage.read_json_lines(epath.Path(folder / "run" / "metrics.jsonl"))
    output = command(folder, "naturel_jax.main", "--config=config.py", "--workdir=run")
    assert "continuing micro from step 4" in output
    actual = storage.read_json_lines(epath.Path(folder / "run" / "metrics.jsonl"))
    for name in ("train/loss", "train/grad_norm", "train/logit_scale", "train/lr"):
        before, now = ({row["step"]: row[name] for row in rows if name in row} for rows in (expected, actual))
        assert list(now) == list(range(1, 9))
        np.testing.assert_allclose(list(now.values()), list(before.values()), rtol=1e-5, err_msg=name)
    scores = json.loads((folder / "finished_scores.json").read_text())["scores"]
    assert json.loads((folder / "run" / "scores.json").read_text())["scores"] == pytest.approx(scores, abs=0.02)


@pytest.mark.slow
def test_unversioned_run_can_be_evaluated(folder):
    flags = ("--models=micro=run:micro", "--benchmarks=naturel", "--naturel=data/naturel/tiny/2.0.0")
    output = command(folder, "naturel_jax.evaluate", *flags)
    assert "micro on naturel" in output


def test_ring_became_a_way_to_exchange():
    base = {"objective": {"ring": True}, "bases": {}}
    saved = {"version": 1, "objective": {"ring": False, "tile": 64}, "bases": {"base": base}}
    config = versions.from_json(saved)
    assert (config.objective.exchange, config.objective.tile) == ("gather", 64)
    assert config.bases["base"].objective.exchange == "ring"


def test_saved_config_keeps_its_meaning(folder):
    saved = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert versions.from_json(saved).eval.during == {"naturel": "4 steps"}
