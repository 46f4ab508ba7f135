"""Checkpoints in object stores: complete or not there, whatever ends a save."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.storage import object_stores
from naturel_jax.storage.object_stores import Location
from tests.helpers.worlds import ROOT, free_address
from tfds_naturel.common.errors import Unavailable, UserError


def tree(step: int) -> dict:
    kernel = jnp.arange(4096.0).reshape(64, 64) + step
    return {"params": {"kernel": kernel.astype(jnp.bfloat16), "scale": jnp.float32(step)}, "optimizer": (kernel,)}


def abstract() -> dict:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree(0))


def save(workdir: epath.Path, *steps: int) -> None:
    with contextlib.closing(Checkpoints(workdir, keep=2)) as checkpoints:
        for step in steps:
            checkpoints.save(step, tree(step), {"step": step})


def restored(workdir: epath.Path) -> int:
    step, arrays, meta = Checkpoints(workdir, keep=2).restore(abstract(), lambda meta: None)
    assert meta == {"step": step}
    expected = jax.tree.leaves_with_path(tree(step))
    for (path, x), (_, y) in zip(jax.tree.leaves_with_path(arrays), expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))
    return step


@pytest.fixture
def workdir(server, request) -> epath.Path:
    return epath.Path(server.url) / request.node.name


def test_newest_checkpoint_is_restored_and_old_ones_are_removed(workdir, tmp_path):
    assert Checkpoints(workdir, keep=2).restore(abstract(), lambda meta: None) is None
    save(workdir, 10, 20, 30)
    assert checkpoint.saved_steps(workdir) == storage.numbered(workdir / "checkpoints") == [20, 30]
    assert restored(workdir) == 30
    # Copied to a disk with the store's own tools, it is a checkpoint there.
    for name, info in Location(workdir).objects().items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        Location(workdir / name).download(tmp_path / "run" / name, info)
    assert restored(epath.Path(tmp_path / "run")) == 30
    assert not list((tmp_path / "cache" / "naturel_jax" / "scratch").iterdir())


def test_checkpoint_without_its_last_object_does_not_exist(workdir, server):
    save(workdir, 10)

    uploaded = []
    server.faults.append(lambda method, path: 403 if method in ("POST", "PUT") and len(uploaded) > 4 else None)
    server.faults.append(lambda method, path: uploaded.append(path) if method in ("POST", "PUT") else None)
    with pytest.raises(OSError, match=r"could not be saved in .*PermissionError: .*403.*run the same command again"):
        save(workdir, 20)
    server.faults.clear()
    left = Location(workdir / "checkpoints" / "20").objects()
    assert left and "manifest.json" not in left
    assert checkpoint.saved_steps(workdir) == [10] and restored(workdir) == 10
    save(workdir, 30)  # also removes what was left
    assert storage.numbered(workdir / "checkpoints") == [10, 30] and restored(workdir) == 30


def test_paused_owner_changes_nothing_in_the_checkpoint_of_the_next(workdir, server):
    """It goes on in the middle of its upload, when the next owner has saved the same step."""
    next_owner = threading.Event()

    def pause(method, path):
        if method == "PUT" and path.endswith("20/params/manifest.ocdbt") and not next_owner.is_set():
            next_owner.set()
            save(workdir, 20)
            storage.write(workdir / "lease.json", "{}")
        return None

    save(workdir, 10)
    server.faults.append(pause)
    with pytest.raises((OSError, UserError), match=r"Changed|has lost its lease"), storage.lease(workdir):
        save(workdir, 20)
    server.faults.clear()
    assert restored(workdir) == 20


def test_paused_owner_removes_nothing_of_the_checkpoint_of_the_next(workdir, monkeypatch):
    """It lists what an interrupted upload has left when the next owner has saved the same step."""
    objects = Location.objects

    def paused(location):
        if location.url == str(workdir / "checkpoints" / "20"):
            monkeypatch.setattr(Location, "objects", objects)
            save(workdir, 20)
            storage.write(workdir / "lease.json", "{}")
        return objects(location)

    save(workdir, 10)
    storage.write(workdir / "checkpoints" / "20" / "left", "")
    monkeypatch.setattr(Location, "objects", paused)
    with pytest.raises(storage.LostLease), storage.lease(workdir):
        save(workdir, 20)
    assert checkpoint.saved_steps(workdir) == [10, 20] and restored(workdir) == 20


def test_store_that_fails_for_too_long_is_unavailable(workdir, server, monkeypatch):
    monkeypatch.setattr(object_stores, "PATIENCE", 0.2)
    save(workdir, 10)
    server.faults.append(lambda method, path: 503)
    with pytest.raises(Unavailable, match="the store failed"):
        save(workdir, 20)
    with pytest.raises(Unavailable, match="the store failed"):
        restored(workdir)
    server.faults.clear()
    assert restored(workdir) == 10


@pytest.mark.parametrize(
    ("server", "damage"), [("gs", "changed"), ("s3", "missing"), ("gs", "manifest")], indirect=["server"]
)
def test_damaged_checkpoint_is_set_aside(workdir, damage):
    save(workdir, 10, 20)
    folder = workdir / "checkpoints" / "20"
    name = "manifest.json" if damage == "manifest" else max(n for n in Location(folder).objects() if "params/" in n)
    if damage == "missing":
        Location(folder / name).delete()
    else:
        content, _ = Location(folder / name).get()
        Location(folder / name).put(content[:-1] + bytes([content[-1] ^ 1]))
    assert restored(workdir) == 10
    assert storage.names(workdir / "checkpoints") == ["10", "20.broken"]
    Location(workdir / "checkpoints" / "10" / name).delete()
    if damage != "manifest":
        with pytest.raises(UserError, match=r"none of the checkpoints .*10\.broken, 20\.broken"):
            restored(workdir)


def test_sound_checkpoint_that_arrives_short_is_left_as_it_is(workdir, server):
    save(workdir, 10, 20)
    address = f"/{workdir.name}/checkpoints/20/params/_METADATA"
    server.faults.append(
        lambda method, path: "short" if method == "GET" and path.endswith(address) and "?" not in path else None
    )
    with pytest.raises(OSError, match=r"does not mean that it is damaged .* bytes came of .* the same command again"):
        restored(workdir)
    server.faults.clear()
    assert restored(workdir) == 20


def test_disk_too_small_for_a_download_is_one_line(workdir, monkeypatch):
    save(workdir, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"checkpoints/10: [\d,]+ bytes are to be written to .*, which has 0 free"):
        restored(workdir)


PROCESS = """
import sys
import jax, jax.numpy as jnp, numpy as np
address, number, workdir = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(number))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from naturel_jax.checkpoints.checkpoint import Checkpoints, saved_steps
mesh = Mesh(np.array(jax.devices()), "x")
values = np.arange(32.0, dtype=np.float32).reshape(8, 4)
make = lambda spec: jax.make_array_from_callback((8, 4), NamedSharding(mesh, spec), lambda index: values[index])
arrays = {"params": {"split": make(PartitionSpec("x")), "whole": make(PartitionSpec())}}
checkpoints = Checkpoints(workdir, keep=2)
checkpoints.save(1, arrays, {"step": 1})
checkpoints.save(2, arrays, {"step": 2}, wait=True)
assert saved_steps(workdir) == [1, 2]
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)
step, found, meta = Checkpoints(workdir, keep=2).restore(shapes, lambda meta: None)
assert step == 2 and meta == {"step": 2}
for before, after in zip(jax.tree.leaves(arrays), jax.tree.leaves(found)):
    assert after.sharding == before.sharding
    for a, b in zip(before.addressable_shards, after.addressable_shards):
        np.testing.assert_array_equal(b.data, a.data)
checkpoints.close()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs", pytest.param("s3", marks=pytest.mark.proof)], indirect=True)
def test_processes_without_a_common_disk_save_and_restore(workdir, tmp_path):
    address, processes = free_address(), []
    for number in range(2):
        env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / str(number)), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROCESS, address, str(number), str(workdir)]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert out.splitlines()[-1:] == ["equal"], errors[-3000:]
