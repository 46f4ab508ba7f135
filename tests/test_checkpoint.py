"""Saving and restoring checkpoints, intact and damaged."""

import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax import checkpoint
from naturel_jax.checkpoint import Checkpoints
from naturel_jax.weights import runs


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
    "manifest gone": lambda newest: (newest / "params" / "manifest.ocdbt").unlink(),
    "manifest cut short": lambda newest: truncate(newest / "params" / "manifest.ocdbt"),
    "meta empty": lambda newest: next((newest / "meta").glob("metadata")).write_text(""),
    "meta torn": lambda newest: truncate(next((newest / "meta").glob("metadata"))),
    "item gone": lambda newest: shutil.rmtree(newest / "params"),
    "folder empty": lambda newest: [shutil.rmtree(newest), newest.mkdir()],
}


def test_newest_checkpoint_is_restored(saved):
    assert restored(saved) == 20


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint_is_reported_and_set_aside(damage, saved, tmp_path, caplog):
    workdir = shutil.copytree(saved, tmp_path / "run")
    DAMAGE[damage](workdir / "checkpoints" / "20")
    with caplog.at_level(logging.ERROR, "naturel_jax"):
        assert restored(workdir) == 10
    assert "checkpoints/20 cannot be read and is kept as 20.broken" in caplog.text
    assert (workdir / "checkpoints" / "20.broken").exists() and not (workdir / "checkpoints" / "20").exists()


def test_checkpoints_of_another_run_are_not_treated_as_damaged(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")

    def refuse(meta):
        raise ValueError(f"the run of step {meta['step']} is another")

    other = {"params": {"renamed": abstract()["params"]["scale"]}}
    with pytest.raises(ValueError, match="the run of step 20 is another"):
        Checkpoints(str(workdir), keep=3).restore(other, refuse)
    assert sorted(checkpoint.saved_steps(workdir)) == [10, 20]


def test_no_readable_checkpoint_is_an_error(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    for step in (10, 20):
        cut_arrays(workdir / "checkpoints" / str(step))
    with pytest.raises(ValueError, match=r"none of the checkpoints \[20, 10\] .* can be read"):
        Checkpoints(str(workdir), keep=3).restore(abstract(), accept)


def test_missing_checkpoints(saved, tmp_path):
    assert Checkpoints(str(tmp_path / "new"), keep=3).restore(abstract(), accept) is None
    with pytest.raises(FileNotFoundError, match=r"not a run directory with a checkpoint; steps found in .*: none"):
        runs.read_meta(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"a checkpoint of step 15; steps found in .*10"):
        runs.read_meta(str(saved), 15)
