"""Runs in earlier formats are evaluated as before, and are not continued with other random streams than theirs.

``fixtures/run_version_0.tar.gz`` was written by commit 4e3889c, before configs and checkpoints had versions. It
contains a tiny CLIP (``micro``) and the first 4 of 8 steps of training it on ``naturel/tiny`` (``run``), with the
metrics of all 8 steps, computed by that commit on one device.
``fixtures/world_2.0.0.tar.gz`` is that dataset (its training and test splits) as commit 4a17414 drew it, with the same
images and captions.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.config import versions
from tests.helpers import fixtures
from tests.helpers.worlds import ROOT

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
        fixtures.unpack(name, place)
    (folder / "config.py").write_text(CONFIG)
    return folder


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    started, environment = [sys.executable, "-m", *arguments], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_run_of_other_random_streams_is_not_continued_but_evaluated_where_it_is(folder, tmp_path):
    """At its end, where nothing is drawn: the parameters of step 4 stand for those of step 8."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    checkpoints, run = tmp_path / "run" / "checkpoints", ("naturel_jax.main", "--config=config.py", "--workdir=run")
    before = storage.read_json_lines(epath.Path(tmp_path / "run" / "metrics.jsonl"))
    message = r"run holds a run that drew its batches from version 1 of the random streams; .* --workdir"
    assert re.search(message, command(tmp_path, *run, code=2))
    (checkpoints / "4").rename(checkpoints / "8")
    command(tmp_path, *run)
    (expected,) = (row for row in before if row["step"] == 4 and "naturel/complex" in row)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    assert {name: scores.get(name, 4) for name in expected} == pytest.approx(expected, abs=0.02)


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


def test_crops_resized_by_devices_became_bilinear_ones():
    device = {"data": {"cache": "device", "augment_on": "device", "batch_size": 8}}
    config = versions.from_json({"version": 2, **device, "bases": {"base": {"data": {"augment_on": "host"}}}})
    assert (config.data.cache, config.data.shrink_by, config.data.batch_size) == ("decoded", "bilinear", 8)
    assert (config.bases["base"].data.cache, config.bases["base"].data.shrink_by) == ("", "area")


def test_saved_config_keeps_its_meaning(folder):
    saved = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert versions.from_json(saved).eval.during == {"naturel": "4 steps"}
