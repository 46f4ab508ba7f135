"""A workdir belongs to one run, which stops writing as soon as it no longer holds it."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.checkpoints import manifest
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.config import versions
from naturel_jax.data import check, datasets
from naturel_jax.data.batches import remined
from naturel_jax.evaluators.results import LeftOut
from naturel_jax.training import run, run_folder
from tests.helpers import tiny_config
from tests.helpers.caption_groups import processor
from tests.helpers.worlds import Run, data_dir, losses, wait_for, write_checkpoints
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining


def contents(folder: Path) -> dict[str, bytes]:
    return {os.fspath(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_says_what_its_run_started_from():
    """Parameters that were computed have no digest."""
    config, folder, now = c.load(tiny_config.get_config()), epath.Path("run"), processor("clip")
    meta = {"config": versions.to_json(config), "processor": now.to_dict() | {"mean": [0.7, 0.7, 0.7]}}
    same = {"init_digest": "a1", "processor": json.loads(json.dumps(now.to_dict()))}
    run_folder.check_meta(folder, meta | same, config, None, "a1", now)
    for began, digest, expected in (
        ("b2", "a1", "its parameters have the digest a1, but the run in run started from others with b2: restore"),
        ("", "a1", r"its processor has mean = \[0\..*, but the run in run started with \[0\.7, 0\.7, 0\.7\]: restore"),
        ("b2", "", "its processor has mean"),
    ):
        with pytest.raises(UserError, match=expected):
            run_folder.check_meta(folder, meta | {"init_digest": began}, config, None, digest, now)


@pytest.mark.slow
def test_run_that_lost_its_lease_stops_without_writing(tmp_path):
    workdir = tmp_path / "run"
    started = Run(workdir, "--config.duration=2000 steps", "--config.checkpoint.every=2 steps")
    wait_for(started, lambda: len(losses(workdir)) >= 5)
    started.process.send_signal(signal.SIGSTOP)  # as if its machine had been suspended
    other = {"token": "other", "host": "elsewhere", "process": 7, "since": 0.0}
    storage.write(epath.Path(workdir / "lease.json"), json.dumps(other))  # another file: this one is the run's
    before, lines = contents(workdir), losses(workdir)
    started.process.send_signal(signal.SIGCONT)
    assert started.wait() == 2, started.output()[-3000:]
    last = started.output().splitlines()[-1]
    assert "has lost its lease, which process 7 on elsewhere since" in last and last.count("error:") == 1

    after = contents(workdir)
    assert len(losses(workdir)) <= len(lines) + 1, "a line may have been on its way"
    for written in (before, after):
        del written["metrics.jsonl"]
        for name in [name for name in written if name.startswith("checkpoints/")]:
            del written[name]  # looked at below
    assert after == before
    saved = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert max(saved, default=0) <= max(lines) + 2, "no checkpoint was begun"


def test_another_config_is_refused_from_the_first_step(tmp_path):
    config = tiny_config.get_config()
    config.data.dir = os.fspath(data_dir())
    with run_folder.leased(epath.Path(tmp_path), c.load(config)):
        assert contents(tmp_path).keys() == {"config.json", "lease.json"}, "before anything else is written"
        (tmp_path / "metrics.jsonl").write_text(storage.sealed({"step": 0, "naturel/simple": 0.5}) + "\n")
        config.seed = 1
        assert not run_folder.has_started(epath.Path(tmp_path), c.load(config)), "an evaluation is not a step"
        config.seed = 0
        (tmp_path / "metrics.jsonl").write_text(storage.sealed({"step": 1, "train/loss": 0.5}) + "\n")
    before = contents(tmp_path)
    config.seed = 1
    with pytest.raises(UserError, match=r"holds a run with another config: config\.seed was 0, is 1\. Use another --w"):
        run.run(c.load(config), tmp_path)
    assert contents(tmp_path) == before


def test_start_that_failed_before_its_first_step_binds_nothing(tmp_path):
    config = tiny_config.get_config()
    config.data.dir = os.fspath(data_dir())
    mistakes = {"data": {"mixture": {"main": {"dataset": "absent"}}}, "mesh": {"data": 3}}
    for field, value in mistakes.items():
        wrong = config.copy_and_resolve_references()
        wrong[field].update(value)
        with pytest.raises(UserError, match=r"'absent' is not prepared|mesh \(data=3, .* does not fit 8 devices"):
            run.run(c.load(wrong), tmp_path)
    with run_folder.leased(epath.Path(tmp_path), c.load(config)):
        assert json.loads((tmp_path / "config.json").read_text())["config"]["mesh"]["data"] != 3


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.md", "processor.json", "checkpoints"])
def test_files_of_somebody_else_are_not_replaced(name, tmp_path):
    steps = [tmp_path / "checkpoints" / step for step in ("100", "200.orbax-checkpoint-tmp")]  # saved, being saved
    for step in steps if name == "checkpoints" else []:
        (step / "default").mkdir(parents=True)
        (step / "default" / "_METADATA").write_text("{}")
    if name != "checkpoints":
        (tmp_path / name).write_text('{"step": 100, "loss": 0.5}\n')  # of another trainer
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"has no config\.json of a run, but {name}, .*: use another --workdir"):
        run.run(c.load(tiny_config.get_config()), tmp_path)
    assert contents(tmp_path) == before
    steps[0].mkdir(parents=True, exist_ok=True)
    (steps[0] / manifest.NAME).write_text("{}")  # a run's, whose damaged config.json was moved away
    assert not run_folder.has_started(epath.Path(tmp_path), c.load(tiny_config.get_config()))


def test_config_is_checked_again_once_the_lease_is_held(tmp_path):
    """Another run may have come and gone between the first look and the lease."""
    config, other = tiny_config.get_config(), tiny_config.get_config()
    other.seed = 1
    folder = epath.Path(tmp_path)
    with run_folder.leased(folder, c.load(config)):
        (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run with another config"), run_folder.leased(folder, c.load(other)):
        pytest.fail("a workdir of another run was handed over")
    assert contents(tmp_path).keys() == {"config.json", "scores.json"}, "and the lease is released"


def checked(folder: Path, raw) -> dict[str, dict]:
    """What a run in ``folder`` notes of the data of a config when it starts."""
    folder.mkdir(exist_ok=True)
    data = c.load(raw).data
    run_folder.check_same_data(epath.Path(folder), datasets.contents(data, datasets.open_sources(data)))
    return storage.read_json(epath.Path(folder) / "data.json")


def on_a_copy(folder: Path):
    """(config that trains on a copy of the tiny dataset in ``folder``, where the copy is)."""
    copy, raw = folder / "mine/1.0.0", tiny_config.get_config()
    shutil.copytree(next((data_dir() / "naturel/tiny").iterdir()), copy)
    raw.data.dir = os.fspath(folder)
    raw.data.mixture.main.update({"dataset": "mine", "split": "validation"})
    return raw, copy


def test_a_run_continues_only_with_its_edition_of_a_prepared_dataset(tmp_path):
    (raw, copy), workdir = on_a_copy(tmp_path / "data"), tmp_path / "run"
    noted = checked(workdir, raw)
    assert noted["main"]["records"] == 40 and re.fullmatch(r"\S+:validation [0-9a-f]{32}", noted["main"]["content"])
    write_checkpoints(workdir, {1: {"a": np.zeros(1)}}, {})
    shutil.copytree(tmp_path / "data", tmp_path / "moved")  # with other times, and items that are collected again
    raw.data.dir = os.fspath(tmp_path / "moved")
    assert checked(workdir, raw) == noted, "the same edition elsewhere"

    newer, info = copy.with_name("1.0.1"), json.loads((copy / "dataset_info.json").read_text())
    shutil.copytree(copy, newer)
    (newer / "dataset_info.json").write_text(json.dumps(info | {"version": "9.9.9"}))
    raw.data.dir = os.fspath(tmp_path / "data")
    with pytest.raises(UserError, match=r"mixture\.main is .*/9\.9\.9:validation .*trains on .*the version of a pre"):
        checked(workdir, raw)
    shutil.rmtree(newer)
    assert checked(workdir, raw) == noted

    (shard,), (other,) = (list(copy.glob(f"*-{split}.array_record-*")) for split in ("validation", "test"))
    shutil.copyfile(other, shard)  # built again with other records, under the same version
    with pytest.raises(UserError, match=r"mixture\.main is .*:validation .*trains on"):
        checked(workdir, raw)
    assert storage.read_json(epath.Path(workdir) / "data.json") == noted


def test_a_list_of_bad_records_from_after_the_run_began_is_to_be_removed(tmp_path):
    workdir, raw, csv = tmp_path / "run", tiny_config.get_config(), tmp_path / "my.csv"
    raw.data.dir = os.fspath(tmp_path / "data")
    raw.data.mixture.main.update({"dataset": f"csv:{csv}", "split": "train", "recipe": "positives"})
    csv.write_text("filepath,caption\n" + "".join(f"{n}.png,a cup\n" for n in range(9)))
    for n in range(9):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    noted = checked(workdir, raw)
    write_checkpoints(workdir, {1: {"a": np.zeros(1)}}, {})
    (tmp_path / "3.png").write_bytes(b"damaged")
    raw.data.max_bad = 0.2
    _, path, _ = check.check(f"csv:{csv}", raw.data.dir, "train", c.Fields(), 1)
    match = r"'left_out': 0, .*list of bad ones \(if the check has written it since: remove the file that it names\)"
    with pytest.raises(UserError, match=match):
        checked(workdir, raw)
    path.unlink()
    assert checked(workdir, raw) == noted


@pytest.mark.parametrize("every", [0, 5])
def test_a_run_continues_only_with_the_hard_images_that_it_began_with(every, tmp_path):
    (raw, _), workdir, path = on_a_copy(tmp_path / "data"), tmp_path / "run", tmp_path / "hard.parquet"
    raw.data.mixture.main.update({"hard_images": os.fspath(path), "hard_images_every": every})
    mining.save(path, [("0", "", ["1"], [mining.NEAREST])])
    noted = checked(workdir, raw)
    write_checkpoints(workdir, {1: {"a": np.zeros(1)}}, {})
    (mined := remined.file(workdir, "main", 5)).parent.mkdir(parents=True)
    mining.save(mined, [("0", "", ["3"], [mining.NEAREST])])  # its own
    assert checked(workdir, raw) == noted
    mining.save(path, [("0", "", ["2"], [mining.NEAREST])])
    with pytest.raises(UserError, match=r"mixture\.main is \{'hard_images': '\w+'\}, but .*the file of hard images"):
        checked(workdir, raw)


def test_a_run_continues_without_what_an_earlier_version_did_not_note(tmp_path):
    """A run that does continue notes it; one that is refused does not."""
    (raw, _), workdir, path = on_a_copy(tmp_path / "data"), tmp_path / "run", tmp_path / "hard.parquet"
    raw.data.mixture.main.hard_images = os.fspath(path)
    mining.save(path, [("0", "", ["1"], [mining.NEAREST])])
    now = checked(workdir, raw)
    write_checkpoints(workdir, {1: {"a": np.zeros(1)}}, {})
    others = {"other": {"records": 3, "left_out": 0, "content": "a1"}}
    without_file = {key: value for key, value in now["main"].items() if key != "hard_images"}
    for before in (others, others | {"main": without_file}):
        storage.write_json(file := epath.Path(workdir) / "data.json", before)
        assert checked(workdir, raw) == others | now
    storage.write_json(file, before := {"main": without_file | {"content": "a1"}})
    with pytest.raises(UserError, match=r"trains on \{'content': 'a1'\}"):
        checked(workdir, raw)
    assert storage.read_json(file) == before
    file.unlink()
    assert checked(workdir, raw) == now


def test_what_scores_leave_out_is_noted_with_them(tmp_path):
    raw = tiny_config.get_config()
    raw.eval.benchmarks, raw.eval.during = ("naturel", "pairs:my.jsonl"), {}
    folder, config = epath.Path(tmp_path), c.load(raw)
    ways = {"images": 20, "read": 16, "name": 1, "bytes": 2, "look": 3}
    found = {"naturel": {"items": 96}, "my": {"items": 12, **ways}}
    run_folder.write_finished(folder, config, Finished({}, {}, {"my": 4}, found, {}))

    def left_out(model: str) -> list[LeftOut]:
        return run_folder.left_out(run_folder.read_finished(folder, config), model)

    whole = [LeftOut("A (b)", "naturel", 96, 0, {}), LeftOut("A (b)", "my", 12, 4, ways)]
    assert left_out("A (b)") == whole
    saved = storage.read_json(epath.Path(tmp_path / "scores.json"))
    for damaged in ({}, saved | {"scores": 3}, saved | {"found": {"my": {"bytes": 1}}}, saved | {"left_out": 3}):
        (tmp_path / "scores.json").write_text(storage.sealed(damaged))
        with pytest.raises(UserError, match=r"scores\.json: not the scores of a run .* move it away to evaluate again"):
            left_out("A")


@pytest.mark.parametrize(
    ("field", "value"),
    [("benchmarks_dir", "elsewhere"), ("naturel", "naturel/full"), ("fields", {"my": {"image": "photo"}})],
)
def test_scores_of_other_benchmark_files_are_not_those_of_this_config(field, value, tmp_path):
    raw, folder = tiny_config.get_config(), epath.Path(tmp_path)
    raw.eval.benchmarks, raw.eval.during = ("pairs:my.jsonl",), {}
    found = Finished({"my": 0.5}, {}, {}, {}, {})
    run_folder.write_finished(folder, c.load(raw), found)
    raw.eval.batch_size = 7  # changes no score
    assert run_folder.read_finished(folder, c.load(raw)) == found
    raw.eval[field] = value
    assert run_folder.read_finished(folder, c.load(raw)) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": 3}'])
def test_damaged_config_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: not .* move it away"):
        run.run(c.load(tiny_config.get_config()), tmp_path)
