"""naturel-mine --watch beside a run: real processes, that are killed and stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import mine, storage
from naturel_jax.checkpoints import checkpoint
from naturel_jax.config import versions
from naturel_jax.data import datasets
from naturel_jax.data.batches import remined
from naturel_jax.evaluators.pool import mining as pool
from naturel_jax.evaluators.pool import remining
from naturel_jax.training import run_folder
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT, Run, compiled_once, data_dir, losses, parameters, two_processes, wait_for
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.hard_images.mining import Margins, MinedRow

EVERY, LAST = 5, 20  # steps of tiny_config


def dataset() -> str:
    return os.fspath(datasets.directory(os.fspath(data_dir()), "naturel/tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a file to begin with, in a random order."""
    folder = tmp_path_factory.mktemp("remined")
    mine.main(["--dataset", dataset(), f"--out={folder / 'first.parquet'}", "--count=2"])
    return folder


def flags(workdir: Path) -> list[str]:
    fields = {"data.mixture.main.hard_images": workdir.parent / "first.parquet", "checkpoint.keep": 1}
    fields |= {"data.mixture.main.hard_images_every": EVERY, "eval.benchmarks": "()", "eval.during": "{}"}
    fields["data.mixture.main.split"] = "train[:200]"  # which are all: what is mined is of the whole split
    fields["duration"] = "1.6 epochs"  # LAST, which the miner does not know: it mines of all checkpoints
    return [f"--config.{name}={value}" for name, value in fields.items()]


def mining(name: Path, *flags: str) -> subprocess.Popen:
    """A process of the command, whose output goes to ``<name>.mine.log``."""
    command = [sys.executable, "-m", "naturel_jax.mine", *flags, "--count=2", "--range_max=6", "--batch_size=64"]
    with open(name.with_suffix(".mine.log"), "a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | compiled_once(), stdout=log, stderr=log)


def watch(workdir: Path) -> subprocess.Popen:
    return mining(workdir, "--watch", str(workdir))


def files(workdir: Path) -> dict[str, list]:
    folder = workdir / remined.FOLDER / "main"
    return {path.name: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def uninterrupted(folder) -> Path:
    """The reference: a run that is mined for meanwhile, until both end."""
    workdir = folder / "whole"
    miner, run = watch(workdir), Run(workdir, *flags(workdir))
    run.finish()
    assert miner.wait(120) == 0, workdir.with_suffix(".mine.log").read_text()
    return workdir


@pytest.mark.slow
def test_each_file_is_mined_from_its_checkpoint(uninterrupted, folder):
    """It is what the command mines from that checkpoint alone, and they differ, since the weights do."""
    found = files(uninterrupted)
    assert found.keys() == {f"{step}.parquet" for step in range(EVERY, LAST + 1, EVERY)}
    assert found["5.parquet"] != found["15.parquet"] != found["20.parquet"]
    assert checkpoint.saved_steps(uninterrupted) == [15, 20], "with keep=1, and one that is mined from"
    for step in (15, 20):
        out = folder / f"alone{step}.parquet"
        alone = mining(folder / "alone", "--dataset", dataset(), f"--out={out}", f"--model=run:{uninterrupted}@{step}")
        assert alone.wait(120) == 0 and pq.read_table(out).to_pylist() == found[f"{step}.parquet"]
    assert watch(uninterrupted).wait(120) == 0 and files(uninterrupted) == found, "nothing is left to be mined"


@pytest.mark.slow
def test_images_near_to_captions_are_mined_by_the_text_tower_of_the_checkpoint(uninterrupted, folder):
    workdir, out = folder / "captions", folder / "captions.parquet"
    shutil.copytree(uninterrupted, workdir)
    by_image = files(workdir)["20.parquet"]
    remined.file(workdir, "main", LAST).unlink()
    assert mining(workdir, "--watch", str(workdir), "--query=text").wait(120) == 0
    model = f"--model=run:{uninterrupted}@{LAST}"
    assert mining(out, "--dataset", dataset(), f"--out={out}", model, "--query=text").wait(120) == 0
    assert files(workdir)["20.parquet"] == pq.read_table(out).to_pylist() != by_image


@pytest.mark.slow
def test_a_run_that_waits_is_stopped_killed_and_goes_on_as_the_same_run(uninterrupted, folder):
    workdir = folder / "interrupted"
    waiting = Run(workdir, *flags(workdir))
    missing = remined.file(workdir, "main", EVERY)
    wait_for(waiting, lambda: f"waiting for {missing}, which naturel-mine --watch {workdir} writes" in waiting.output())
    asked = time.monotonic()
    waiting.process.terminate()
    assert waiting.wait() == 75, waiting.output()[-3000:]
    assert time.monotonic() - asked < 10
    assert max(losses(workdir)) == 2 * EVERY and 2 * EVERY in checkpoint.saved_steps(workdir), "nothing is lost"

    miner, killed = watch(workdir), Run(workdir, *flags(workdir))
    wait_for(killed, lambda: max(losses(workdir), default=0) >= 12)
    for process in (killed.process, miner):
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert max(losses(workdir)) < LAST

    miner, last = watch(workdir), Run(workdir, *flags(workdir))
    assert "from step 10" in last.finish() and miner.wait(120) == 0
    assert losses(workdir) == losses(uninterrupted) and losses(workdir).keys() == set(range(1, LAST + 1))
    expected, found = parameters(uninterrupted), parameters(workdir)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert files(workdir) == files(uninterrupted)


@pytest.mark.proof
def test_two_processes_wait_and_stop_together(uninterrupted, folder):
    workdir = folder / "two"
    both = two_processes(workdir, *flags(workdir), devices=1)
    wait_for(both[0], lambda: "waiting for" in both[0].output())
    asked = time.monotonic()
    both[1].process.terminate()
    assert [run.wait() for run in both] == [75, 75], both[1].output()[-3000:]
    assert time.monotonic() - asked < 10 and max(losses(workdir)) == 2 * EVERY
    miner, both = watch(workdir), two_processes(workdir, *flags(workdir), devices=1)
    assert [run.finish() for run in both] and miner.wait(120) == 0
    expected = losses(uninterrupted)
    np.testing.assert_allclose([losses(workdir)[n] for n in range(1, 11)], [expected[n] for n in range(1, 11)], 1e-4)
    assert losses(workdir).keys() == expected.keys()


def test_a_run_that_mines_nothing_again_is_refused(tmp_path):
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    workdir = epath.Path(tmp_path)
    run_folder.write_config(workdir, c.load(raw))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"--watch .*: no part of config\.data\.mixture of this run has hard_images_every"
    ):
        remining.watch(workdir, 8, 0, Margins(), "float32", 64, "image")


def test_checkpoints_that_no_batch_uses_are_left(tmp_path):
    """Of 20 steps, the last five use what was mined from step 10."""
    raw = tiny_config.get_config()
    raw.data.mixture.main.hard_images, raw.data.mixture.main.hard_images_every = "a.parquet", EVERY
    workdir = epath.Path(tmp_path)
    run_folder.write_config(workdir, c.load(raw))
    (tmp_path / "scores.json").write_text("{}")
    for step in (15, 20):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    remining.watch(workdir, 8, 0, Margins(), "float32", 64, "image")
    (tmp_path / "checkpoints" / "10").mkdir()
    with pytest.raises((UserError, OSError)):  # this one would be used, and is empty
        remining.watch(workdir, 8, 0, Margins(), "float32", 64, "image")


def test_a_run_that_is_not_there_yet_is_waited_for(tmp_path, monkeypatch, caplog):
    """Without a folder, so that a mistyped name leaves nothing."""

    def stop(seconds: float) -> None:
        raise Stopped("asked to stop")

    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(Stopped):
        remining.watch(epath.Path(tmp_path / "runs" / "tpyo"), 8, 0, Margins(), "float32", 64, "image")
    assert "tpyo/config.json is not there yet; waiting for a run to begin in" in caplog.text
    assert not list(tmp_path.iterdir())


def test_miner_that_lost_its_lease_leaves_the_file_of_the_next(tmp_path):
    """It was paused in the middle of its rows."""
    path = epath.Path(tmp_path) / "main" / "5.parquet"
    path.parent.mkdir()

    def save(rows: Iterable[MinedRow]) -> None:
        pool.save(path, rows, SimpleNamespace(shown=[1]), Counter(), Margins(), {})

    def rows() -> Iterator[MinedRow]:
        yield "a", "", ["b"], ["swap"]
        save([("a", "", ["c"], ["swap"])])
        storage.write(epath.Path(tmp_path) / "lease.json", "{}")

    with pytest.raises(storage.LostLease), storage.lease(epath.Path(tmp_path)):
        save(rows())
    assert [row["negatives"] for row in pq.read_table(path).to_pylist()] == [["c"]]
    assert storage.names(path.parent) == ["5.parquet", "5.parquet.json"]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, r"config\.json: malformed \(KeyError"),
        ({"config": []}, r"config\.json: malformed \(AttributeError"),
        ({"config": {"version": "3"}}, r"config\.json: its config has version '3'; this naturel_jax reads 3: install"),
        ({"config": None}, r"has a part '\.\./\.\./\.\./x'; expected the name of a folder"),
    ],
)
def test_config_of_a_stranger_neither_breaks_nor_leaves_the_workdir(tmp_path, saved, message):
    workdir = tmp_path / "a" / "run"
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    if saved == {"config": None}:
        raw = tiny_config.get_config()
        raw.data.mixture.main.hard_images, raw.data.mixture.main.hard_images_every = "a.parquet", 5
        config = versions.to_json(c.load(raw))
        saved = {
            "config": config | {"data": config["data"] | {"mixture": {"../../../x": config["data"]["mixture"]["main"]}}}
        }
    (workdir / "config.json").write_text(storage.sealed(saved))
    with pytest.raises(UserError, match=message):
        remining.watch(epath.Path(workdir), 8, 0, Margins(), "float32", 64, "image")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--watch=run", "--model=a"], r"--model is for --dataset: with --watch, the run's config says what is mined"),
        (["--watch=run", "--split=train"], r"--split is for --dataset"),
        (["--watch=run", "--foils=a.parquet"], r"--foils is for --dataset"),
        (["--watch=run", "--count=0"], r"--count is 0, expected 1 to"),
        (["--dataset=here"], r"--dataset needs --out"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected):
        mine.main(flags)
    assert not list(tmp_path.iterdir())
