"""Saving and restoring checkpoints, intact and damaged."""

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from naturel_jax.checkpoints import checkpoint
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.weights import runs
from tfds_naturel.common.errors import UserError

# When one array cannot be read, Orbax closes its event loop while TensorStore still reads others.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")


def tree(step: int) -> dict:
    return {"params": {"kernel": jnp.arange(4096.0).reshape(64, 64) + step, "scale": jnp.float32(step)}}


def abstract() -> dict:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(str(workdir), keep=3)
    for step in (10, 20):
        checkpoints.save(step, tree(step), {"step": step}, wait=True)
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def accept(meta: dict) -> None:
    assert meta["step"] in (10, 20)


def restored(workdir: Path) -> int:
    step, arrays, meta = Checkpoints(str(workdir), keep=3).restore(abstract(), accept)
    assert meta == {"step": step}
    np.testing.assert_array_equal(arrays["params"]["kernel"], tree(step)["params"]["kernel"])
    return step


def truncate(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def cut_arrays(newest: Path) -> None:
    for path in newest.glob("params/**/d/*"):
        truncate(path)


DAMAGE = {
    "arrays cut short": cut_arrays,
    "meta torn": lambda newest: truncate(next((newest / "meta").glob("metadata"))),
    "item gone": lambda newest: shutil.rmtree(newest / "params"),
    "checksums gone": lambda newest: (newest / "manifest.json").unlink(),
}


SAVE = """
import contextlib, resource
import jax
from absl import logging
from naturel_jax.checkpoints.checkpoint import Checkpoints
from tfds_naturel.common import cli

def main(arguments):
    with contextlib.closing(Checkpoints(arguments[0], keep=3)) as checkpoints:
        logging.set_verbosity(logging.FATAL)  # as naturel_jax.main does
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as if the disk were full
        arrays = {str(n): jax.random.normal(jax.random.key(n), (32, 1024)) for n in range(64)}
        checkpoints.save(30, {"params": arrays}, {"step": 30}, wait=True)

cli.run(main)
"""


def test_failed_save_is_an_error_in_one_line(saved, tmp_path):
    """In a process of its own, since Orbax leaves threads that wait for steps of the save that never come. What there
    is of the checkpoint is removed, and what a killed process has left, too."""
    workdir = shutil.copytree(saved, tmp_path / "run")
    (workdir / "checkpoints" / "25.orbax-checkpoint-tmp").mkdir()
    done = subprocess.run([sys.executable, "-c", SAVE, workdir], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "could not be saved in" in line
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"10", "20"}
    assert restored(workdir) == 20


def test_no_checkpoint_appears_or_is_removed_if_its_manifest_fails(saved, tmp_path, monkeypatch):
    """It is written before Orbax renames the folder: there is no moment between at which to be killed. What other
    threads of the save write later is removed, too."""
    workdir = shutil.copytree(saved, tmp_path / "run")
    checkpoints = Checkpoints(str(workdir), keep=2)

    def full(folder):
        assert not (workdir / "checkpoints" / "30").exists()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.manifest, "write", full)
    with pytest.raises(OSError, match=r"could not be saved.*No space left"):
        checkpoints.save(30, tree(30), {"step": 30}, wait=True)
    (workdir / "checkpoints" / "30.orbax-checkpoint-tmp-0" / "params").mkdir(parents=True)
    checkpoints.close()
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"10", "20"}


def test_save_beside_a_step_whose_metadata_is_damaged(saved, tmp_path):
    """Orbax would then take the time of the folder, and the name of its owner, which may have none."""
    workdir = shutil.copytree(saved, tmp_path / "run")
    metadata = workdir / "checkpoints" / "10" / "_CHECKPOINT_METADATA"
    metadata.write_bytes(b"?" + metadata.read_bytes()[1:])
    with contextlib.closing(Checkpoints(str(workdir), keep=3)) as checkpoints:
        checkpoints.save(30, tree(30), {"step": 30}, wait=True)
    assert checkpoint.saved_steps(workdir) == [10, 20, 30]


def test_checkpoint_of_an_owner_that_was_paused_is_not_completed(saved, tmp_path, monkeypatch):
    """Its lease was lost after the last check, before the rename."""
    workdir = shutil.copytree(saved, tmp_path / "run")
    paused, write = Checkpoints(str(workdir), keep=3), checkpoint.manifest.write

    def overtaken(folder):
        write(folder)
        assert restored(workdir) == 20, "another owner begins"

    monkeypatch.setattr(checkpoint.manifest, "write", overtaken)
    with pytest.raises(OSError, match="could not be saved"):
        paused.save(30, tree(30), {"step": 30}, wait=True)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"10", "20"}


def test_save_leaves_the_number_by_which_processes_agree_to_stop(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    checkpoints = Checkpoints(str(tmp_path), keep=3)
    checkpoints.save(10, tree(10), {"step": 10}, wait=True)
    checkpoints.close()
    assert asked == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint_is_reported_and_set_aside(damage, workdir, caplog):
    DAMAGE[damage](workdir / "checkpoints" / "20")
    with caplog.at_level(logging.ERROR, "naturel_jax"):
        assert restored(workdir) == 10
    assert "checkpoints/20 cannot be read and is kept as 20.broken" in caplog.text
    assert (workdir / "checkpoints" / "20.broken").exists() and not (workdir / "checkpoints" / "20").exists()


def test_names_of_damaged_checkpoints_never_collide(workdir):
    folder = workdir / "checkpoints"
    for name in ("20.broken", "20.broken-2", "20.broken-3"):
        truncate(next((folder / "20" / "meta").glob("metadata")))
        assert restored(workdir) == 10
        assert (folder / name).is_dir()
        shutil.copytree(folder / "10", folder / "20")
    assert len(list(folder.glob("20.broken*"))) == 3


FAILURES = {
    "memory": MemoryError(),
    "device memory": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
    "disk": OSError(errno.EIO, "Input/output error"),
    "time-out": TimeoutError("timed out"),
    "network": ValueError('UNAVAILABLE: Error reading "kernel/0.0": Connection reset by peer'),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_read_is_not_damage(failure, workdir, monkeypatch):
    def fail(*arguments, **options):
        raise FAILURES[failure]

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
    with pytest.raises(OSError, match=r"checkpoint .*/20 could not be read, .* left as it is") as error:
        restored(workdir)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["10", "20"]
    monkeypatch.undo()
    assert restored(workdir) == 20


@pytest.mark.parametrize("path", ["params", "params/d", "params/_METADATA", "params/manifest.ocdbt", "meta", "", ".."])
def test_missing_permission_is_not_damage(path, workdir):
    """Really missing: as another user, if this one may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(workdir, Path(folder) / "run")
        for inner in (Path(folder), *copied.rglob("*")):
            inner.chmod(0o777 if inner.is_dir() else 0o666)
        copied.chmod(0o777)
        closed, user = copied / "checkpoints" / "20" / path, os.geteuid()
        closed.chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(OSError, match=r"Permission denied|PERMISSION_DENIED"):
                restored(copied)
        finally:
            os.seteuid(user)
            closed.chmod(0o777)
        assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == ["10", "20"]
        assert restored(copied) == 20


def test_checkpoints_of_another_run_are_not_treated_as_damaged(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")

    def refuse(meta):
        raise ValueError(f"the run of step {meta['step']} is another")

    other = {"params": {"renamed": abstract()["params"]["scale"]}}
    with pytest.raises(ValueError, match="the run of step 20 is another"):
        Checkpoints(str(workdir), keep=3).restore(other, refuse)
    assert sorted(checkpoint.saved_steps(workdir)) == [10, 20]


def test_run_without_intact_checkpoints_does_not_start_over(workdir):
    for step in (10, 20):
        cut_arrays(workdir / "checkpoints" / str(step))
    for _ in range(2):  # nor when it is started again
        with pytest.raises(UserError, match=r"none .* can be read.*: 10\.broken, 20\.broken\. To start over .* delete"):
            restored(workdir)
    for path in (workdir / "checkpoints").iterdir():
        shutil.rmtree(path)
    assert Checkpoints(str(workdir), keep=3).restore(abstract(), accept) is None


def test_missing_checkpoints(saved, tmp_path):
    assert Checkpoints(str(tmp_path / "new"), keep=3).restore(abstract(), accept) is None
    with pytest.raises(FileNotFoundError, match=r"not a run directory with a checkpoint; steps found in .*: none"):
        runs.read_meta(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"a checkpoint of step 15; steps found in .*10"):
        runs.read_meta(str(saved), 15)
