"""Checkpoints of a run by name: the newest, one of a step, the best by a score, wherever a model is named."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import naturel_jax
from naturel_jax import convert, evaluate, weights
from naturel_jax.checkpoints import checkpoint, checkpoint_meta
from naturel_jax.data.seen.trained_on import FOLDER, from_used
from naturel_jax.evaluators import results
from naturel_jax.weights import model_card, runs
from tests.helpers import benchmark_files as files
from tests.helpers.tiny_models import tiny
from tfds_naturel.common.errors import UserError

STEPS = (2, 4, 6)
SCORES = {0: 0.9, 2: 0.3, 4: 0.7, 6: 0.5, 8: 0.8}  # of naturel/complex, also at steps without a checkpoint


def params_of(step: int):
    return tiny()[0].init(jax.random.key(step))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """The workdir of a run with three checkpoints and the scores of five evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    model, _, processor = tiny()
    trained_on = from_used({"winoground": ["0"]})
    trained_on.save(epath.Path(folder) / FOLDER)
    meta = checkpoint_meta.make_meta({"name": "mine"}, model.config, processor, trained_on.meta())
    checkpoints = checkpoint.Checkpoints(folder, keep=10)
    for step in STEPS:
        checkpoints.save(step, {"params": params_of(step)}, meta, wait=True)
    checkpoints.close()
    rows = [{"step": step, "wall_time": 1.0, "naturel/complex": score} for step, score in SCORES.items()]
    rows += [{"step": 2, "train/loss": 9.0}, {"step": 2, "coco_retrieval/text@1": 0.4}, {"step": 4, "nan/score": None}]
    lines = [json.dumps(row).replace("null", "NaN") for row in rows]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return os.fspath(folder)


NAMED = {"": 6, "@2": 2, "@best:naturel/complex": 4, "@best:coco_retrieval/text@1": 2}


@pytest.mark.parametrize(("which", "step"), NAMED.items())
def test_checkpoint_that_a_name_means(run, which, step, tmp_path):
    model = naturel_jax.load(f"run:{run}{which}")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(model.params), jax.device_get(params_of(step)))
    assert model.trained_on.checksum() == from_used({"winoground": ["0"]}).checksum()
    about = model_card.about(f"run:{run}{which}")
    assert (about.name, about.step) == ("mine", step) and about.scores["naturel/complex"] == SCORES[step]


def test_every_command_takes_the_names(run, tmp_path):
    convert.main([f"run:{run}@best:naturel/complex", str(tmp_path / "best"), "--to", "run"])
    converted = weights.load(f"run:{tmp_path}/best").params
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(converted), jax.device_get(params_of(4)))
    files.winoground(tmp_path, items=4)
    names = {"two": "@2", "four": "@4", "best": "@best:naturel/complex"}
    models = [f"{name}=run:{run}{which}" for name, which in names.items()]
    arguments = ["--benchmarks", "winoground", "--benchmarks_dir", str(tmp_path), "--out", str(tmp_path / "out")]
    evaluate.main(["--models", *models, *arguments, "--batch_size", "8"])
    found = {result.model: result for result in results.load(tmp_path / "out")}
    assert found["four"].fingerprint == found["best"].fingerprint != found["two"].fingerprint
    assert found["best"].left_out == 1, "the record of training images is that of the run"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("@3", r"mine is not a run directory with a checkpoint of step 3; steps found in .*: \[2, 4, 6\]"),
        ("@best", r"expected @best:SCORE; .*metrics\.jsonl has the scores coco_retrieval/text@1, naturel/complex$"),
        ("@best:naturel/hard", r"@best:naturel/hard: expected @best:SCORE; .* has the scores coco_retrieval/text@1, n"),
        ("@latest", r"mine@latest is not a run directory .* expected WORKDIR, WORKDIR@STEP or WORKDIR@best:SCORE"),
    ],
)
def test_error_lists_the_steps_and_scores_that_there_are(run, which, expected):
    with pytest.raises(UserError, match=expected):
        weights.load(f"run:{run}{which}")


def test_score_without_a_kept_checkpoint(run, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "checkpoints").symlink_to(Path(run) / "checkpoints")
    (copied / "metrics.jsonl").write_text('{"step": 3, "naturel/simple": 0.5}\n')
    with pytest.raises(
        UserError, match=r"recorded at steps \[3\], but the checkpoints that are kept are of steps \[2,"
    ):
        weights.load(f"run:{copied}@best")  # the only score needs no name
    (copied / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl has the scores of no evaluation"):
        weights.load(f"run:{copied}@best")


def test_folder_that_is_called_like_a_step_is_a_workdir(run, tmp_path):
    (tmp_path / "mine@2").symlink_to(run)
    assert runs.locate(tmp_path / "mine@2") == (epath.Path(tmp_path / "mine@2"), 6)
    assert runs.locate(f"{tmp_path}/mine@2@4")[1] == 4
