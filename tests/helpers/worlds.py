"""A tiny NatuRel dataset, drawn once per test session, and real runs of ``naturel_jax.main`` on it."""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from naturel_jax.checkpoints import checkpoint, restore
from naturel_jax.storage import read_json_lines
from naturel_jax.weights import runs
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

ROOT = Path(__file__).parents[2]
TINY = dataclasses.replace(CONFIGS["scenes"], name="tiny", sizes=(200, 40, 40, 40))
SPEED = {"train/images_per_s", "wall_time"}  # what equal runs may differ in
STOPS_WITHIN = 10  # seconds after a signal, for a run of one process, on busy machines
_LIMIT_S = 900  # timeout of one process, for busy machines


@functools.cache
def data_dir() -> Path:
    """``config.data.dir`` with the dataset naturel/tiny, and XLA's compilation cache next to it."""
    folder = Path(tempfile.mkdtemp(prefix="naturel-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Naturel(config=scenes(TINY), data_dir=os.fspath(folder)).download_and_prepare()
    return folder


def compiled_once() -> dict[str, str]:
    """Variables with which processes share their programs, and XLA optimizes little: tiny models compile for longer
    than they train."""
    cache = {"JAX_COMPILATION_CACHE_DIR": f"{data_dir()}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return cache | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Run:
    """A process of ``naturel_jax.main`` in ``workdir``; its output goes to ``<workdir>.<number>.log``.

    Trains ``tests/helpers/tiny_config.py:<form>`` on the tiny dataset, or what the config file ``config`` says.
    """

    def __init__(
        self, workdir: Path, *flags: str, form: str = "softmax", config: str = "", env: Mapping[str, str] | None = None
    ):
        log = next(path for n in range(100) if not (path := workdir.with_suffix(f".{n}.log")).exists())
        self._log, self.workdir = log, workdir
        tiny = (f"--config={ROOT}/tests/helpers/tiny_config.py:{form}", f"--config.data.dir={data_dir()}")
        chosen = (f"--config={ROOT}/tests/helpers/{config}",) if config else tiny
        command = [sys.executable, "-m", "naturel_jax.main", *chosen, f"--workdir={workdir}", *flags]
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **compiled_once(), **(env or {})}, stdout=file, stderr=file
            )

    def output(self) -> str:
        """The output so far."""
        return self._log.read_text()

    def wait(self) -> int:
        """Waits for the process; returns its exit status."""
        return self.process.wait(_LIMIT_S)

    def finish(self) -> str:
        """Waits for the process, checks that it succeeded, and returns its output."""
        assert self.wait() == 0, self.output()[-3000:]
        return self.output()


def wait_for(run: Run, condition: Callable[[], object]) -> None:
    """Waits until ``condition()`` is true; fails if the run ends first."""
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        assert run.process.poll() is None and time.monotonic() < deadline, run.output()[-3000:]
        time.sleep(0.001)


def free_address() -> str:
    """An address of this machine, with a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def two_processes(
    workdir: Path, *flags: str, second: str = "", devices: int = 4, form: str = "softmax", config: str = ""
) -> list[Run]:
    """Starts one run on two processes with ``devices`` devices each. ``second``: a flag for the second process only."""
    joined = (f"--coordinator={free_address()}", "--processes=2", f"--cpu_devices={devices}", *flags)
    own = (["--process=0"], ["--process=1", *filter(None, [second])])
    return [Run(workdir, *joined, *alone, form=form, config=config) for alone in own]


def continued(reference: Path, workdir: Path, step: int) -> Path:
    """Copies a finished run to ``workdir`` in the state after ``step``."""
    shutil.copytree(reference, workdir)
    (workdir / "scores.json").unlink()
    for later in checkpoint.saved_steps(workdir):
        if later > step:
            shutil.rmtree(workdir / "checkpoints" / str(later))
    return workdir


def write_checkpoints(workdir: Path, params_at: Mapping[int, Any], meta: dict[str, Any]) -> None:
    """The checkpoints of a run as training leaves them: step -> parameters."""
    with contextlib.closing(checkpoint.Checkpoints(workdir, keep=len(params_at))) as checkpoints:
        for step, params in params_at.items():
            checkpoints.save(step, {"params": params}, meta, wait=True)


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """The parameters of the newest checkpoint, by path."""
    params = runs.load_run(str(workdir))[1]
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint with a moving average, by path."""
    here = ocp.args.StandardRestore(fallback_sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    items = dict.fromkeys(("params", "optimizer", "ema"), here)  # also from devices that are not in this process
    found = restore.read(checkpoint.directory(workdir) / str(step), **items)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(found)}


def losses(workdir: Path) -> dict[int, float]:
    """Step -> loss, for the steps logged so far."""
    lines = read_json_lines(epath.Path(workdir) / "metrics.jsonl")
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def check_alike(workdir: Path, reference: Path, steps: int) -> None:
    """Whether a run has the losses and parameters of another, to rounding, and scores of the same benchmarks."""
    found, expected = losses(workdir), losses(reference)
    assert found.keys() == expected.keys() == set(range(1, steps + 1))
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)
    after = parameters(workdir)
    for path, value in parameters(reference).items():
        np.testing.assert_allclose(after[path], value, rtol=0, atol=2e-5, err_msg=path)
    scored = [json.loads((folder / "scores.json").read_text())["scores"].keys() for folder in (workdir, reference)]
    assert scored[0] == scored[1] and scored[0]
