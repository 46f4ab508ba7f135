"""What a user reads who mistypes something: each message says what was found, what was expected, and the fix."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny_config
from worlds import ROOT, Run, data_dir

from naturel_jax import run
from naturel_jax.main import default_workdir
from naturel_jax.metrics import read_lines


def output(*flags: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "naturel_jax.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_help_shows_how_to_start_and_every_flag():
    _, text = output("--help")
    assert "python -m naturel_jax.main --config configs/siglip_tp.py" in text
    assert all(f"--{flag}:" in text for flag in ("config", "workdir", "coordinator", "process", "cpu_devices"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=configs/nothing.py"], ["configs/nothing.py", "here are configs/clip.py, configs/demo.py"]),
        (
            ["--config=tests/tiny_config.py", "--config.optim.lrr=1"],
            ["--config.optim.lrr=1", "no field 'optim.lrr'", "nearest is 'optim.lr'"],
        ),
        (["--config=tests/tiny_config.py", "--config.optim.lr=abc"], ["config.optim.lr=abc", "float"]),
        (["--config=tests/tiny_config.py", "lr=1"], ["unexpected arguments ['lr=1']", "--config.optim.lr=3e-6"]),
        ([], ["--config"]),
    ],
    ids=["unknown file", "mistyped field", "wrong type", "no flag", "no config"],
)
def test_flags_that_are_wrong(flags, expected):
    status, text = output(*flags)
    assert status != 0 and "Traceback" not in text
    for part in expected:
        assert part in text


@pytest.fixture
def signals():
    """A run watches for SIGTERM and Ctrl-C; pytest gets its own handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"duration": "soon"}, r"config\.duration is 'soon'; expected a number and a unit: '500 steps'"),
        ({"optim.warmup": "3 weeks"}, r"config\.optim\.warmup is '3 weeks'"),
        ({"preset": "tiny-clap"}, r"preset 'tiny-clap' is not known; expected one of: .*tiny-clip"),
        ({"preset": ""}, r"config\.init is '' and config\.preset is '': set one of them"),
        ({"data.mixture.main.recipe": "one_piar"}, r"'one_piar' is not known; expected one of: .*single_pair"),
        ({"data.mixture.main.split": "dev"}, r"no split 'dev'; it has: test, test_unseen_triplets, train, validation"),
        ({"data.mixture.main.dataset": "naturel/full"}, r"'naturel/full' is not prepared under .*how to build it"),
        ({"data.batch_size": 12}, r"config\.data\.batch_size is 12: not a multiple of the 8 devices"),
        ({"eval.during": ("winoground",)}, r"config\.eval\.during has \['winoground'\]"),
        ({"mesh.data": 3}, r"config\.mesh \(data=3, fsdp=1, tensor=1\) does not fit 8 devices"),
        ({"objective.counting": "both"}, r"config\.objective\.counting is 'both'; expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_that_do_not_fit_are_refused_before_training(changes, expected, tmp_path, signals):
    config = tiny_config.get_config()
    config.data.dir = os.fspath(data_dir())
    config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        run.run(config, os.fspath(tmp_path))


def test_a_workdir_that_cannot_be_used_is_refused_before_data_are_read(tmp_path):
    config = tiny_config.get_config()
    config.data.dir = "nowhere"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"workdir .*/file/run cannot be written: Not a directory; choose another"):
        run.run(config, os.fspath(tmp_path / "file" / "run"))


def test_a_disk_with_no_room_for_a_checkpoint_is_refused_before_training(tmp_path, monkeypatch, signals):
    config = tiny_config.get_config()
    config.data.dir = os.fspath(data_dir())
    usage = type(run.checkpoint.shutil.disk_usage("/"))(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(run.checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"0\.00 GB free; a checkpoint needs about 0\.0\d GB: free some"):
        run.run(config, os.fspath(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_override_reaches_the_run(tmp_path):
    run = Run(tmp_path / "run", "--config.optim.lr=3e-6", "--config.duration=1 steps", "--config.optim.warmup=0 steps")
    run.finish()
    lines = read_lines(str(tmp_path / "run" / "metrics.jsonl"))
    assert [line["train/lr"] for line in lines if "train/lr" in line] == [np.float32(3e-6)]


def test_the_default_workdir_is_named_after_config_and_argument():
    assert default_workdir("configs/siglip_tp.py:scenes") == "runs/siglip_tp_scenes"
    assert default_workdir("configs/demo.py") == "runs/demo"
