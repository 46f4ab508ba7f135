"""What is found before a run trains, and runs that become longer."""

import contextlib
import dataclasses
import json
import operator
import os
import re
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import main, storage
from naturel_jax.checkpoints import checkpoint, finished, recorded
from naturel_jax.config import versions
from naturel_jax.data.random import draws
from naturel_jax.training import ready, run, run_folder
from naturel_jax.weights import runs
from tests.helpers import tiny_config
from tests.helpers.model_files import save_hf
from tests.helpers.worlds import Run, data_dir, losses, parameters
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


LORA = {"adapter__rank": 4, "adapter__targets": ("image/.*",)}


def tiny(**changes) -> c.Config:
    raw = tiny_config.get_config("sigmoid")
    raw.data.dir = os.fspath(data_dir())
    raw.update({"duration": "4 steps"})
    raw.optim.update({"warmup": "1 steps", "schedule": "constant"})
    raw.checkpoint.every, raw.eval.during = "2 steps", {}
    raw.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return c.load(raw)


def begun(folder: Path, config: c.Config, step: int) -> epath.Path:
    """A workdir in the state after ``step`` steps of ``config``, finished if these are all."""
    workdir = epath.Path(folder)
    run_folder.write_config(workdir, config)
    checkpoints = checkpoint.Checkpoints(folder, keep=3)
    meta = {"config": versions.to_json(config), "streams": draws.VERSION}
    checkpoints.save(step, {"params": {"a": np.zeros(1)}}, meta, wait=True)
    checkpoints.close()
    if config.duration == f"{step} steps":
        run_folder.write_finished(workdir, config, finished.Finished({"naturel/simple": 0.5}, {}, {}, {}, {}))
    return workdir


def notes(workdir: epath.Path) -> list[dict]:
    return json.loads((workdir / "config.json").read_text()).get("extended", [])


def test_finished_run_with_a_constant_rate_becomes_longer(tmp_path, caplog):
    workdir, longer = begun(tmp_path, tiny(), 4), tiny(duration="8 steps")
    storage.write_json(workdir / recorded.INTERPOLATED, {"best": 0.5})
    assert run_folder.read_finished(workdir, longer) is None
    with caplog.at_level("INFO", "naturel_jax"):
        ready.note(longer, workdir, ready.check(longer, workdir, {"main": 200}))
    said = "has 4 steps, and goes on to 8 instead of 4; its learning rate so far is that of the longer run"
    assert said in caplog.text
    assert notes(workdir) == [{"step": 4, "duration": "4 steps", "same_rates": True}]
    assert not (workdir / "scores.json").exists(), "which would say that the longer run is finished"
    kept = json.loads((workdir / "scores_4_steps.json").read_text())
    assert (kept["scores"], kept["duration"]) == ({"naturel/simple": 0.5}, "4 steps")
    with pytest.raises(UserError, match=r"interpolated\.json names no best share"):
        runs.share(f"{tmp_path}@interpolated:best")
    assert json.loads((workdir / "interpolated_4_steps.json").read_text())["best"] == 0.5
    ready.note(longer, workdir, ready.check(longer, workdir, {"main": 200}))
    assert len(notes(workdir)) == 1, "killed before its next checkpoint, it starts again"


def test_a_curve_that_is_asked_for_later_is_computed(tmp_path):
    config = tiny(init="run:base", preset="")
    curve = dataclasses.replace(config, eval=dataclasses.replace(config.eval, interpolate=(0.0, 1.0)))
    workdir = begun(tmp_path, config, 4)
    assert run_folder.read_finished(workdir, config) and run_folder.read_finished(workdir, curve) is None
    run_folder.write_finished(workdir, curve, finished.Finished({}, {}, {}, {}, {}))
    storage.write_json(workdir / recorded.INTERPOLATED, {})
    assert run_folder.read_finished(workdir, curve) and run_folder.read_finished(workdir, config)


def test_scores_of_a_model_that_is_trained_later_are_kept(tmp_path):
    workdir, evaluated = epath.Path(tmp_path), tiny(duration="0 steps")
    run_folder.write_config(workdir, evaluated)
    run_folder.write_finished(workdir, evaluated, finished.Finished({"naturel/simple": 0.5}, {}, {}, {}, {}))
    ready.note(tiny(), workdir, ready.check(tiny(), workdir, {"main": 200}))
    assert json.loads((workdir / "scores_0_steps.json").read_text())["scores"] == {"naturel/simple": 0.5}
    assert json.loads((workdir / "config.json").read_text())["config"]["duration"] == "4 steps"
    assert not (workdir / "scores.json").exists() and notes(workdir) == []


def test_longer_run_that_fails_before_its_first_step_leaves_the_shorter_one_finished(tmp_path):
    config = tiny()
    workdir = begun(tmp_path, config, 4)
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        run.run(tiny(duration="8 steps", eval__benchmarks=("naturel", "pairs:none.jsonl")), workdir)
    assert run_folder.read_finished(workdir, config) and not notes(workdir)
    assert json.loads((workdir / "config.json").read_text())["config"]["duration"] == "4 steps"


@pytest.mark.parametrize("changes", [{"optim__schedule": "cosine"}, {"optim__warmup": "50%"}], ids=str)
def test_other_rates_of_a_longer_run_are_said_and_noted(changes, tmp_path, caplog):
    workdir = begun(tmp_path, tiny(**changes), 3)
    assert ready.check(tiny(duration="64 examples", **changes), workdir, {"main": 200}) is None
    assert not caplog.text, "these are the same 4 steps"
    extended = ready.check(tiny(duration="8 steps", **changes), workdir, {"main": 200})
    rates = r"step 3 had \S+, the next has \S+\. It will not be the run that 8 steps from the start would have been"
    assert re.search(f"has 3 steps, and goes on to 8 instead of 4. So far, .*shorter run: {rates}", caplog.text)
    assert extended == {"step": 3, "duration": "4 steps", "same_rates": False}
    with pytest.raises(UserError, match=r"was '4 steps' \(4 steps\) in .*, is '2 steps' \(2\): .*can become longer"):
        ready.check(tiny(duration="2 steps", **changes), workdir, {"main": 200})


@pytest.mark.slow
def test_a_run_goes_on_from_the_base_and_processor_that_it_started_from(tmp_path):
    base, other = save_hf(tmp_path / "base", "tiny-clip"), save_hf(tmp_path / "other", "tiny-clip", seed=1)
    fields = {"preset": "", "init": os.fspath(base), "eval__benchmarks": ()}
    short, long = (tiny(**fields, duration=f"{steps} steps") for steps in (2, 4))
    run.run(short, tmp_path / "run")
    others = (other / "model.safetensors").read_bytes()
    for name, change, expected in (
        ("model.safetensors", others, r"its parameters have the digest \w+, but .*"),
        ("preprocessor_config.json", None, r"its processor has mean = \[0\.7, .*"),
    ):
        kept = (base / name).read_bytes()
        (base / name).write_bytes(change or json.dumps(json.loads(kept) | {"image_mean": [0.7] * 3}).encode())
        with pytest.raises(UserError, match=rf"config\.init .*base': {expected} started .*: restore the model that"):
            run.run(long, tmp_path / "run")
        (base / name).write_bytes(kept)
    run.run(long, tmp_path / "run")
    assert losses(tmp_path / "run").keys() == {1, 2, 3, 4}


@pytest.mark.slow
def test_run_that_becomes_longer_is_the_longer_run(tmp_path):
    """Bit for bit, with a constant rate."""
    fields = {"optim.schedule": "constant", "checkpoint.every": "2 steps", "optim.warmup": "1 steps"}
    fields |= {"eval.benchmarks": "()", "eval.during": {}}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    for workdir, steps in (("long", 6), ("extended", 3), ("extended", 6)):
        Run(tmp_path / workdir, *flags, f"--config.duration={steps} steps").finish()
    assert notes(epath.Path(tmp_path / "extended")) == [{"step": 3, "duration": "3 steps", "same_rates": True}]
    assert (tmp_path / "extended" / "scores_3_steps.json").exists()
    assert losses(tmp_path / "extended") == losses(tmp_path / "long")
    assert losses(tmp_path / "long").keys() == {*range(1, 7)}
    np.testing.assert_equal(parameters(tmp_path / "extended"), parameters(tmp_path / "long"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"wandb": "project"}, r"config\.wandb is 'project', but wandb is not installed: pip install"),
        ({"duration": "1 epochs", "optim__warmup": "50 steps"}, r"config\.optim\.warmup is 50 steps; the run has 13"),
        ({"data__batch_size": 208}, r"is 208, of which config\.data\.mixture\.main gives 208 images, but it has 200"),
        ({"eval__benchmarks": ("naturel", "vsr")}, r"config\.eval\.benchmarks .*set config\.eval\.benchmarks_dir"),
        (
            {"eval__interpolate": (0.5,), "eval__interpolate_by": "naturel/complx"},
            r"interpolate_by is 'naturel/complx', which is no score .*; did you mean 'naturel/complex'\?",
        ),
        ({"data__batch_size": 12}, r"batch_size is 12: not a multiple of the 8 devices that share a batch"),
        ({"data__max_patches": 64}, r"max_patches is 64, but the model is not a NaFlex model"),
        ({"data__mixture__main__recipe": "swaps"}, r"recipe 'swaps' .* needs tags of the captions, which naturel/tiny"),
        ({"data__mixture__main__hard_images": __file__}, r"mixture\.main\.hard_images is .*expected a Parquet file"),
        ({"data__cache_captions": True}, r"cache_captions is True, but .*lr_multipliers trains text/embed"),
        ({"compute__attention": "splash"}, r"attention is 'splash' and the devices are of the platform 'cpu'"),
        ({"optim__lr_multipliers": (("imagee/.*", 0.1),)}, r"lr_multipliers: 'imagee/\.\*' matches no parameter"),
        ({"optim__lr_multipliers": (("text/.*", 0.1),), **LORA}, r"'text/\.\*' matches no parameter.*lora_"),
        ({"adapter__rank": 4, "adapter__targets": ("nothing",)}, r"adapter\.targets: 'nothing' matches no layer"),
        ({"init": "base:second"}, r"second is not a run directory with a checkpoint"),
        ({"bases__first__optim__lr_multipliers": (("imagee/.*", 0.1),)}, r"'imagee/\.\*' matches no parameter"),
    ],
    ids=str,
)
def test_mistake_is_found_before_the_base_is_trained(changes, expected, tmp_path):
    """The corrected command can follow in the same workdir."""
    raw = tiny_config.get_config("sigmoid")
    base = raw.copy_and_resolve_references()
    raw.data.dir = os.fspath(data_dir())
    raw.preset, raw.init, raw.bases.first = "", "base:first", base
    raw.duration, raw.optim.warmup = "4 steps", "1 steps"
    raw.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    with pytest.raises((UserError, FileNotFoundError), match=expected):
        run.run(c.load(raw), tmp_path / "tuned")
    assert not (tmp_path / "first").exists()
    assert not run_folder.has_started(epath.Path(tmp_path / "tuned"), tiny())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"init": "none/model", "preset": ""}, r"none/model: no such file or folder"),
        ({"init": "run:none/run", "preset": ""}, r"none/run is not a run directory"),
        ({"eval__benchmarks": ("naturel", "pairs:none.jsonl")}, r"pairs:none\.jsonl: no such file"),
        ({"eval__naturel": "naturel/full"}, r"'naturel/full' is not prepared"),
        ({"data__mixture__more": c.part("csv:none.csv", "one_pair")}, r"csv:none\.csv: no such file"),
        ({"data__mixture__more": c.part("cvs:my.csv", "one_pair")}, r"has prefix 'cvs'; .*did you mean csv:my\.csv"),
        ({"data__mixture__more": c.part("naturel/coco_order", "one_pair")}, r"'naturel/coco_order' is not prepared"),
        ({"data__mixture__main__hard_images": "none.parquet"}, r"hard_images:none\.parquet: no such file"),
        ({"data__mixture__main__split": "trian[:10]"}, r"main\.split is 'trian\[:10\]'; expected one of train, val"),
        ({"data__mixture__main__split": "train[:10]"}, r"gives 16 images, but it has 10, so that"),
        ({"data__mixture__main__split": "train[20000:]"}, r"scenes:train, split .*of its 12,000 records"),
        ({"data__batch_size": 16_000}, r"main gives 16,000 images, but it has 12,000, so that a batch"),
        ({"duration": "1 epochs", "optim__warmup": "2 epochs"}, r"warmup is 1500 steps; the run has 750: shorten it"),
        ({"data__mixture__more": c.part("naturel/scenes", "bindings")}, r"scenes:train: no image has .* 'binding'"),
    ],
    ids=str,
)
def test_what_is_not_there_is_found_before_anything_is_drawn(changes, expected, tmp_path):
    """In the second run of a suite, before the first begins, but for a run that the first may be."""
    raw = tiny_config.get_config("sigmoid")
    raw.data.dir, raw.data.mixture.main.dataset = os.fspath(tmp_path / "data"), "naturel/scenes"
    raw.eval.naturel = "naturel/scenes"
    sound = c.load(raw)
    for name, value in changes.items():
        path, _, field = name.replace("__", ".").rpartition(".")
        setattr(operator.attrgetter(path)(raw) if path else raw, field, value)
    wrong = c.load(raw)
    with pytest.raises((UserError, FileNotFoundError), match=expected):
        run.run(wrong, tmp_path / "run")
    if not wrong.init.startswith("run:"):
        with pytest.raises((UserError, FileNotFoundError), match=expected):
            main.run_all(c.Suite({"sound": sound, "wrong": wrong}, {}, ""), os.fspath(tmp_path / "suite"))
    assert not (tmp_path / "data").exists() and not (tmp_path / "suite" / "sound").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__batch_size": 12}, r"batch_size is 12: not a multiple of the 8 devices"),
        ({"data__mixture__main__recipe": "swaps"}, r"needs tags of the captions, which naturel/scenes:train"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_found_before_anything_is_drawn(changes, expected, tmp_path):
    drawn = {"data__mixture__main__dataset": "naturel/scenes", "eval__naturel": "naturel/scenes"}
    config = tiny(data__dir=os.fspath(tmp_path / "data"), **drawn, **changes)
    with pytest.raises(UserError, match=expected):
        run.run(config, tmp_path / "run")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("every", "saved", "expected"),
    [
        (3, "2 steps", r"main\.hard_images_every is 3, but config\.checkpoint\.every is '2 steps' \(2 steps\)"),
        (2, "4 steps", r"hard_images_every is 2, but .*to a multiple.*such as config\.checkpoint\.every to '2 steps'"),
        (4, "0 steps", r"hard_images_every is 4, but config\.checkpoint\.every is '0 steps' \(0 steps\)"),
        (4, "2 steps", ""),
    ],
    ids=str,
)
def test_hard_images_are_mined_again_from_checkpoints_that_are_saved(every, saved, expected, tmp_path):
    part = {"hard_images": "mined.parquet", "hard_images_every": every}
    changes = {f"data__mixture__main__{name}": value for name, value in part.items()}
    config, workdir = tiny(checkpoint__every=saved, **changes), epath.Path(tmp_path)
    run_folder.write_config(workdir, config)
    if not expected:
        return ready.check(config, workdir, {"main": 200})
    with pytest.raises(UserError, match=expected):
        ready.check(config, workdir, {"main": 200})


def test_start_that_failed_leaves_neither_its_tokenizer_nor_its_scores(tmp_path):
    workdir, wrong = epath.Path(tmp_path), tiny(optim__lr=1.0)
    with run_folder.leased(workdir, wrong):
        (workdir / "processor.json").write_text("{}")
        (workdir / "metrics.jsonl").write_text(storage.sealed({"step": 0, "naturel/simple": 0.5}) + "\n")
    with run_folder.leased(workdir, wrong):
        assert (workdir / "metrics.jsonl").exists(), "the same run goes on after its first evaluation"
    with run_folder.leased(workdir, tiny()):
        assert {path.name for path in workdir.iterdir()} == {"config.json", "lease.json"}


@pytest.mark.parametrize(
    ("weight", "turns", "sizes", "named"),
    [
        (1.0, "images", {"main": 60, "more": 4}, r"config\.data\.mixture\.more gives 8 images, but it has 4,"),
        (1.0, "batches", {"main": 60, "more": 12}, r"more gives 16 images, but it has 12,"),
        (0.3, "images", {"main": 60, "more": 4}, None),
    ],
)
def test_batches_that_would_have_images_twice_are_refused(weight, turns, sizes, named, tmp_path):
    raw = tiny_config.get_config("sigmoid")
    raw.data.mixture.more = raw.data.mixture.main.copy_and_resolve_references()
    raw.data.mixture.more.weight, raw.data.turns, raw.data.batch_size = weight, turns, 16
    config, workdir = c.load(raw), epath.Path(tmp_path)
    run_folder.write_config(workdir, config)
    with pytest.raises(UserError, match=named) if named else contextlib.nullcontext():
        ready.check(config, workdir, sizes)
