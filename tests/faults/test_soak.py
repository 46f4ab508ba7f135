"""The soak finds what it looks for: leaks, wrong numbers and faults; its short form finds none."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from naturel_jax import storage
from proofs import soak, watched
from tests.helpers import fixtures
from tfds_naturel.common import cli


def test_growth_is_that_of_the_second_half():
    t = np.linspace(0, 1200, 1201)
    steady = {
        "evaluations and saves come and go": 500 + 5 * np.sin(t),
        "the few files that are open during a save": 8 + 20 * (np.sin(t * t) > 0.95),
        "warm-up": np.minimum(t, 600),
    }
    for name, values in steady.items():
        assert soak.growth(t, values) == pytest.approx(0, abs=0.002), name
    assert soak.growth(t, 500 + t / 10) == pytest.approx(60 / 590, abs=0.002), "from 560 to 620"


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("shim") / "faults.so"
    soak.compile_shim(file)
    return file


WRITE = """
import os, sys
for number in range(50):
    file = os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(file, b"0123456789")
    finally:
        os.close(file)
"""


@pytest.mark.parametrize(
    ("kind", "error", "faults"),
    [
        ("eio", "Input/output error", {"eio open", "eio write"}),
        ("lost", "Input/output error", {"lost open", "lost write"}),
        ("full", "No space left on device", {"full open", "full half", "full write"}),
        ("short", None, {"short half"}),
        ("slow", None, {"slow open", "slow write"}),
    ],
)
def test_faults_occur_in_their_folder_only(shim, tmp_path, kind, error, faults):
    folder, other, log = tmp_path / "run", tmp_path / "run2", tmp_path / "log"
    folder.mkdir(), other.mkdir()
    environment = {"LD_PRELOAD": str(shim), "FAULTS_FOLDER": str(folder), "FAULTS_LOG": str(log), "FAULTS_KIND": kind}
    environment |= {"FAULTS_SEED": "1", "FAULTS_CHANCE": "0.2", "FAULTS_AFTER": "20"}

    def write(where: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WRITE, str(where)]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)

    assert write(other).returncode == 0 and not log.exists()
    done = write(folder)
    assert (done.returncode == 0) == (error is None) and (error or "") in done.stderr
    injected = [line.split() for line in log.read_text().splitlines()]
    assert {" ".join(words[:2]) for words in injected} <= faults
    assert all(words[-1].startswith(f"{folder}/") for words in injected)
    half = [path for path in folder.iterdir() if path.read_bytes() == b"01234"]
    assert len(half) == sum(words[1] == "half" for words in injected)
    assert all(path.read_bytes() in (b"0123456789", b"01234", b"") for path in folder.iterdir())


TENSORBOARD = """
import contextlib, sys
from etils import epath
from naturel_jax.config import Config
from naturel_jax.training import writers
with contextlib.ExitStack() as closing:
    write = writers.open_all(Config(), epath.Path(sys.argv[1]), 0, closing)[1].values
    for step in range(100):
        write(step, {"loss": 0.0})
"""


@pytest.mark.slow
def test_tensorboard_on_a_lost_disk_is_an_error(shim, tmp_path):
    environment = {"LD_PRELOAD": str(shim), "FAULTS_FOLDER": str(tmp_path), "FAULTS_LOG": str(tmp_path / "log")}
    environment |= {"FAULTS_KIND": "lost", "FAULTS_AFTER": "20"}
    command = [sys.executable, "-c", TENSORBOARD, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"Input/output error: '{tmp_path}/tensorboard'" in done.stderr


@pytest.fixture
def two_runs(tmp_path) -> tuple[Path, Path]:
    fixtures.unpack("run_0.1.0", tmp_path)
    shutil.copy(tmp_path / "finished_scores.json", tmp_path / "run" / "scores.json")
    return tmp_path / "run", Path(shutil.copytree(tmp_path / "run", tmp_path / "other"))


def test_equal_runs_do_not_differ_but_for_speed(two_runs):
    one, other = two_runs
    lines = storage.read_json_lines(epath.Path(other / "metrics.jsonl"))
    faster = [row | {"train/images_per_s": 1e6} if "train/loss" in row else row for row in lines]
    (other / "metrics.jsonl").write_text("".join(storage.sealed(row) + "\n" for row in faster))
    assert soak.differences(one, other) == []


def test_another_line_loss_score_or_parameter_is_a_difference(two_runs):
    one, other = two_runs
    lines = (one / "metrics.jsonl").read_text().splitlines(keepends=True)
    changed = storage.unsealed(json.loads(lines[1]))
    key = max(changed, key=lambda name: name == "train/loss")
    changed[key] = np.nextafter(changed[key], np.inf)  # the last bit
    for wrong in (lines[:-1], [*lines, lines[-1]], [lines[0], storage.sealed(changed) + "\n", *lines[2:]]):
        (other / "metrics.jsonl").write_text("".join(wrong))
        assert soak.differences(one, other) == ["lines"]
    (other / "metrics.jsonl").write_text("".join(lines))
    scores = storage.read_json(epath.Path(other / "scores.json"))
    scores["scores"][next(iter(scores["scores"]))] += 1e-9
    (other / "scores.json").write_text(storage.sealed(scores))
    assert soak.differences(one, other) == ["scores"]
    shutil.copy(one / "scores.json", other / "scores.json")
    shutil.rmtree(other / "checkpoints" / "4")  # leaves that of step 2
    assert soak.differences(one, other) == ["arrays"]


@pytest.mark.parametrize(
    ("limit", "disk", "problems"), [(60.0, {}, 0), (0.0, {}, 1), (0.0, {"FAULTS_KIND": "slow"}, 0)]
)
def test_stop_that_takes_too_long_is_a_problem(limit, disk, problems, monkeypatch):
    monkeypatch.setattr(soak, "STOP_S", limit)
    codes = iter([None, cli.STOPPED])  # running until the signal

    def wait(seconds: float) -> int | None:
        time.sleep(0.01)
        return next(codes)

    process, tally = SimpleNamespace(wait=wait, send=lambda number: None, output=lambda: ""), soak.Tally()
    assert soak.start_once(process, soak.Fault(signal.SIGTERM, 0.0, disk), tally) == "stopped and saved"
    assert len(tally.problems) == problems and tally.slowest_stop > 0
    assert all("s after SIGTERM, more than 0" in problem for problem in tally.problems)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_allocated_is_what_malloc_has_given_out():
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = watched.allocated()
    blocks = [libc.malloc(1 << 20) for _ in range(16)]
    given_out = watched.allocated() - before
    for block in blocks:
        libc.free(block)
    assert all(blocks) and 16 << 20 <= given_out < 17 << 20
    assert watched.allocated() - before < 1 << 20


@pytest.mark.proof
def test_short_soak_under_faults(tmp_path, capsys):
    code = soak.faults(tmp_path, minutes=1, seed=3)
    output = capsys.readouterr().out
    assert code == 0, output
    assert "| Runs with wrong numbers | 0 |" in output and "| Stuck | 0 |" in output
    assert "| Faults injected | 0 |" not in output


@pytest.mark.proof
def test_short_steady_soak(tmp_path, capsys):
    soak.steady(tmp_path, minutes=0.3)  # too short for a verdict on leaks
    output = capsys.readouterr().out
    assert "| Exit code after SIGTERM | 75 (expected 75) |" in output
    assert int(output.split(f"a save every {soak.SAVE} | ")[1].split(" |")[0]) > 0
    allocated, resident = (
        int(output.split(f"| {name} | ")[1].split(" MB")[0].replace(",", "")) for name in ("Allocated", "Resident")
    )
    assert 0 < allocated < resident < 2_500, "of a tiny model: none for each of the steps to come"
