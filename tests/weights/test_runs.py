"""Checkpoints of a run by name: the newest, one of a step, the best by a score, wherever a model is named."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

import naturel_jax
from naturel_jax import config as c
from naturel_jax import convert, evaluate, storage, weights
from naturel_jax.checkpoints import checkpoint_meta, recorded
from naturel_jax.data.seen.trained_on import FOLDER, from_used
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.evaluators import results
from naturel_jax.models import adapters
from naturel_jax.training import interpolation
from naturel_jax.training.run import run as train
from naturel_jax.weights import model_card, runs
from tests.helpers import benchmark_files as files
from tests.helpers import tiny_config
from tests.helpers.tiny_models import tiny, write_run
from tests.helpers.worlds import data_dir, write_checkpoints
from tfds_naturel.common.errors import UserError

STEPS = (2, 4, 6)
SCORES = {0: 0.9, 2: 0.3, 4: 0.7, 6: 0.5, 8: 0.8}  # of naturel/complex, also at steps without a checkpoint


def params_of(step: int):
    return tiny()[0].init(jax.random.key(step))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """The workdir of a run with three checkpoints and the scores of five evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    trained_on = from_used({"winoground": ["0"]})
    trained_on.save(epath.Path(folder) / FOLDER)
    recipe = {"name": "mine", "init": ""}
    write_run(folder, {step: params_of(step) for step in STEPS}, recipe, trained_on=trained_on.meta())
    rows = [{"step": step, "wall_time": 1.0, "naturel/complex": score} for step, score in SCORES.items()]
    rows += [{"step": step, "coco_order/ties": score} for step, score in SCORES.items()]
    rows += [
        {"step": 2, "train/loss": 9.0},
        {"step": 2, "coco_retrieval/text@1": 0.4},
        {"step": 4, "nan/score": np.nan},
    ]
    (folder / "metrics.jsonl").write_text("".join(storage.sealed(row) + "\n" for row in rows))
    return os.fspath(folder)


NAMED = {"": 6, "@2": 2, "@best:naturel/complex": 4, "@best:coco_retrieval/text@1": 2, "@best:coco_order/ties": 2}


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
        (
            "@best",
            r"expected @best:SCORE; .*metrics\.jsonl has the scores coco_order/ties, .*/text@1, naturel/complex$",
        ),
        ("@best:naturel/hard", r"@best:naturel/hard: expected @best:SCORE; .* has the scores coco_order/ties, coco_r"),
        ("@latest", r"mine@latest is not a run directory .* expected WORKDIR, WORKDIR@STEP, WORKDIR@best:SCORE or "),
    ],
)
def test_error_lists_the_steps_and_scores_that_there_are(run, which, expected):
    with pytest.raises(UserError, match=expected):
        weights.load(f"run:{run}{which}")


SHOWN = {"toy/plain": 1.0, "zeroshot/birds/top1": 0.5}  # scores of every evaluation


class Nearness:
    """Stands for an evaluator: how near the logit scale is to that between base and tuned at each of two shares."""

    def __init__(self, name, *scales):
        self.name, self.scales = name, scales

    def scores(self, params):
        distance = min(abs(float(params["logit_scale"]) - scale) for scale in self.scales)
        return SHOWN | {self.name: -round(distance, 3), "toy/hidden/x": 1.0}


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory) -> Path:
    """A run that started from step 2 of ``run``, beside it, and trained to other parameters with a bias."""
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    model, _, processor = tiny()
    sizes = dataclasses.replace(model.config, init_bias=0.0)
    params = params_of(9) | {"logit_bias": jnp.float32(-3), "logit_scale": params_of(2)["logit_scale"] + 1}
    meta = checkpoint_meta.make_meta({"name": "t", "init": f"run:{run}@2"}, sizes, processor, None)
    write_checkpoints(folder, {3: params}, meta)
    return folder


def test_interpolated_run(run, tuned, tmp_path):
    """A bias that only the run has stays."""
    base, last = jax.device_get((params_of(2), weights.load(f"run:{tuned}").params))
    mixed = jax.device_get(weights.load(f"run:{tuned}@interpolated:0.25").params)
    assert mixed.pop("logit_bias") == last.pop("logit_bias") == -3
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, rtol=1e-5, atol=1e-7), base, last, mixed
    )
    about = model_card.about(f"run:{tuned}@interpolated:0.25")
    assert about.sections == {"Interpolation": "0.75 of the base, 0.25 of the run."} and not about.scores
    for share, expected in (
        ("half", "the share is 'half'; expected a number from 0 to 1"),
        ("best", "names no best share"),
    ):
        with pytest.raises(UserError, match=expected):
            weights.load(f"run:{tuned}@interpolated:{share}")
    with pytest.raises(UserError, match="random parameters"):
        weights.load(f"run:{run}@interpolated:0.5")


@pytest.mark.parametrize("by", ["toy/near", "toy/near/one relation"])
def test_curve_names_the_best_share_and_of_equals_that_nearest_to_the_base(by, tuned, caplog):
    caplog.set_level("INFO", logger="naturel_jax")
    params, start = weights.load(f"run:{tuned}").params, float(params_of(2)["logit_scale"])
    params = jax.device_put(params, NamedSharding(make_mesh({"data": 1}, jax.devices()[:1]), PartitionSpec()))
    options = c.Config(name="t", eval=c.Eval(interpolate=(1.0, 0.75, 0.5, 0.25, 0.0), interpolate_by=by))
    evaluator = Nearness(by, start + 0.25, start + 0.75)
    interpolation.curve(options, epath.Path(tuned), params, evaluator.scores(params), evaluator)
    found = storage.read_json(epath.Path(tuned) / recorded.INTERPOLATED)
    expected = {"1": -0.25, "0.75": 0, "0.5": -0.25, "0.25": 0, "0": -0.25}
    assert found == {"by": by, "best": 0.25, "scores": {s: SHOWN | {by: near} for s, near in expected.items()}}
    assert f"{by} is 1: -0.250, 0.75: -0.000, 0.5: -0.250, 0.25: -0.000, 0: -0.250; the best is 0.25" in caplog.text
    best = weights.load(f"run:{tuned}@interpolated:best").params["logit_scale"]
    assert float(best) == pytest.approx(start + 0.25, abs=1e-5)


def test_another_base_is_not_interpolated_with(tmp_path):
    """The place that the run names has other parameters than those that it started from."""
    for name, init, seed in (("base", "", 1), ("tuned", f"run:{tmp_path}/base", 2)):
        digest = adapters.digest(params_of(1)) if init else ""
        write_run(tmp_path / name, {1: params_of(seed)}, {"name": name, "init": init}, init_digest=digest)
    weights.load(f"run:{tmp_path}/tuned@interpolated:0.5")
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(tmp_path / "tuned", tmp_path / "base")
    found = adapters.digest(params_of(2))
    with pytest.raises(
        UserError, match=rf"tuned.* with parameters of digest {digest}, but .*base now has {found}: res"
    ):
        weights.load(f"run:{tmp_path}/tuned@interpolated:0.5")


def test_score_without_a_kept_checkpoint(run, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    (copied / "checkpoints").symlink_to(Path(run) / "checkpoints")
    (copied / "metrics.jsonl").write_text(storage.sealed({"step": 3, "naturel/simple": 0.5}) + "\n")
    with pytest.raises(
        UserError, match=r"recorded at steps \[3\], but the checkpoints that are kept are of steps \[2,"
    ):
        weights.load(f"run:{copied}@best")  # the only score needs no name
    no_number = storage.sealed({"step": 2, "naturel/complex": "1"}) + "\n"
    for lines, message in (("", r"has the scores of no evaluation"), (no_number, "is '1', expected a number")):
        (copied / "metrics.jsonl").write_text(lines)
        with pytest.raises(UserError, match=rf"metrics\.jsonl.* {message}"):
            weights.load(f"run:{copied}@best")


def test_folder_that_is_called_like_a_step_is_a_workdir(run, tmp_path):
    (tmp_path / "mine@2").symlink_to(run)
    assert runs.locate(tmp_path / "mine@2") == (epath.Path(tmp_path / "mine@2"), 6)
    assert runs.locate(f"{tmp_path}/mine@2@4")[1] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_ends_with_its_curve(tmp_path):
    """From the scores of its base to its own, with steps that may be left out and a schedule-free average."""
    raw = tiny_config.get_config()
    raw.data.dir, raw.duration, raw.optim.warmup, raw.eval.during = os.fspath(data_dir()), "2 steps", "0 steps", {}
    base = train(c.load(raw), tmp_path / "base").scores
    raw.preset, raw.init = "", f"run:{tmp_path}/base"
    raw.optim.update({"skip_above": 3.0, "name": "schedule_free_adamw", "lr": 1e-2})
    raw.eval.interpolate, raw.eval.interpolate_by = (0, 0.5, 1), "naturel/simple"
    last = train(c.load(raw), tmp_path / "tuned").scores
    found = storage.read_json(epath.Path(tmp_path) / "tuned" / recorded.INTERPOLATED)
    for share, scores in (("0", base), ("1", last)):
        assert found["scores"][share] == {name: score for name, score in scores.items() if name.count("/") == 1}
    assert runs.share(tmp_path / "tuned@interpolated:best") == found["best"]


def test_a_model_that_is_its_own_base_is_refused(tmp_path):
    itself, targets = f"run:{tmp_path}/itself", (".*/attn/query",)
    options = {"rank": 1, "alpha": 1.0, "rslora": False, "targets": targets}
    adapter = {"base": itself, "digest": "", **options}
    arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), adapters.shapes(tiny()[0].shapes(), 1, targets))
    write_run(tmp_path / "itself", {1: arrays}, {"name": "itself", "init": itself}, adapter=adapter)
    with pytest.raises(UserError, match="is one its own"):
        weights.load(itself)


@pytest.mark.parametrize("name", ["/etc", "../elsewhere", ""])
def test_a_base_of_a_foreign_run_is_a_folder_beside_it(name, tmp_path):
    write_run(tmp_path / "run", {1: {"x": jnp.zeros(1)}}, {"name": "run", "init": f"base:{name}"})
    with pytest.raises(UserError, match=r"config\.init"):
        runs.base(tmp_path / "run")
