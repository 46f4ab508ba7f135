"""Flipped bits in a checkpoint's files."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import xxhash
from etils import epath

from naturel_jax.checkpoints import manifest
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.storage import blocks
from naturel_jax.weights import runs
from tests.helpers.tiny_models import tiny, write_run
from tfds_naturel.common.errors import UserError

PARAMS = {"kernel": np.arange(4096, dtype=np.float32).reshape(64, 64), "scale": np.float32(1)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """With checkpoints of steps 10 and 20."""
    workdir = tmp_path_factory.mktemp("saved")
    with contextlib.closing(Checkpoints(str(workdir), keep=3)) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {"params": PARAMS, "optimizer": {"count": np.int32(step)}}, {}, wait=True)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def step_restored(workdir: Path) -> int:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = {"params": PARAMS, "optimizer": {"count": np.int32(0)}}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)
    step, arrays, _ = Checkpoints(str(workdir), keep=3).restore(shapes, lambda meta: None)
    jax.tree.map(np.testing.assert_array_equal, arrays["params"], PARAMS)
    assert arrays["optimizer"]["count"] == step
    return step


def flip(path: Path, bit: int) -> None:
    """Flips one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([byte]))


def files(newest: Path) -> list[Path]:
    """The files of a checkpoint that anything is restored from, and the manifest."""
    paths = sorted(path for path in newest.rglob("*") if path.is_file() and path.parent != newest)
    return [*paths, newest / "manifest.json"]


def test_every_file_is_in_the_manifest_with_its_size(saved):
    newest = saved / "checkpoints" / "20"
    listed = json.loads((newest / "manifest.json").read_text())["files"]
    expected = {str(path.relative_to(newest)): path.stat().st_size for path in files(newest)[:-1]}
    assert {name: file["size"] for name, file in listed.items()} == expected
    assert {name.split("/")[0] for name in listed} == {"params", "optimizer", "meta"}


def test_file_that_cannot_be_read_for_a_moment_is_not_damaged(workdir, monkeypatch):
    file, stat = workdir / "checkpoints" / "20" / "params" / "_METADATA", os.stat
    for failing in range(3):
        calls = itertools.count()

        def fail_once(path, *args, calls=calls, failing=failing, **kwargs):
            if os.fspath(path) == str(file) and next(calls) == failing:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return stat(path, *args, **kwargs)

        with monkeypatch.context() as patched, contextlib.suppress(OSError):
            patched.setattr(os, "stat", fail_once)
            step_restored(workdir)
        assert failing or next(calls)  # the file was looked at
        assert step_restored(workdir) == 20


def test_100_random_flipped_bits_are_all_found_and_the_checkpoint_before_is_used(workdir):
    newest, draw = workdir / "checkpoints" / "20", random.Random(0)
    paths = files(newest)  # how many there are depends on TensorStore's timing
    for path in itertools.islice(itertools.cycle(paths), 100):
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        assert step_restored(workdir) == 10, f"{path}, bit {bit}"
        newest.with_name("20.broken").rename(newest)
        flip(path, bit)
    assert step_restored(workdir) == 20
    assert len(paths) < 100


def test_nothing_is_restored_from_the_files_that_have_no_checksum(workdir):
    """Orbax completes its records at the top of the folder after the manifest has been written."""
    newest = workdir / "checkpoints" / "20"
    records = [path for path in newest.iterdir() if path.is_file() and path.name != "manifest.json"]
    assert {path.name for path in records} <= {"_CHECKPOINT_METADATA", "commit_success.txt"}
    for content in (b"", b"\xff{", b'{"item_handlers": 3}'):
        for path in records:
            path.write_bytes(content)
        assert step_restored(workdir) == 20


def test_each_of_several_processes_checks_a_part(workdir):
    newest = epath.Path(workdir / "checkpoints" / "20")
    for path in files(Path(newest))[:-1]:
        flip(path, 0)
        found = []
        for part in range(3):
            try:
                manifest.check(newest, ["params", "optimizer", "meta"], part=part, parts=3)
            except manifest.Damaged as error:
                found.append(str(error))
        assert len(found) == 1 and str(path) in found[0]
        flip(path, 0)


def test_blocks_of_a_large_file_have_their_own_checksums(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1 << 18)
    (tmp_path / "params").mkdir()
    path = tmp_path / "params" / "data"
    path.write_bytes(os.urandom(900_000))
    folder = epath.Path(tmp_path)
    manifest.write(folder)
    monkeypatch.undo()  # the block's size is read from the manifest
    manifest.check(folder, ["params"])
    for byte, start in ((0, "0"), (262_143, "0"), (262_144, "262,144"), (899_999, "786,432")):
        flip(path, 8 * byte)
        with pytest.raises(manifest.Damaged, match=f"data has XXH3 .* from byte {start} on"):
            manifest.check(folder, ["params"])
        flip(path, 8 * byte)
    manifest.check(folder, ["params"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"files": {"params/../../data": {"size": 1, "xxh3": ["0"]}}}, "not a file of the checkpoint"),
        ({"files": {"params/data": {"size": 4, "xxh3": []}}}, "has 0 checksums"),
        ({"block": 1}, "blocks of 1 bytes"),
        ({"block": 1 << 50}, "blocks of 1125899906842624 bytes"),
    ],
)
def test_a_manifest_names_only_its_files_and_covers_them(change, expected, tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "data").write_bytes(b"data")
    fields = {"block": blocks.BLOCK, "files": {}} | change
    sealed = {"xxh3": xxhash.xxh3_64_hexdigest(json.dumps(fields).encode()), **fields}
    (tmp_path / manifest.NAME).write_text(json.dumps(sealed))
    with pytest.raises(manifest.Damaged, match=expected):
        manifest.check(epath.Path(tmp_path), ["params"])


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / manifest.NAME)
    with pytest.raises(UserError, match="not a regular file"):
        manifest.check(epath.Path(tmp_path), ["params"])


def test_damaged_run_is_not_evaluated_or_converted(tmp_path):
    params = tiny()[1]
    write_run(tmp_path, {20: params}, {})
    loaded = runs.load_run(tmp_path)[1]
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    newest = tmp_path / "checkpoints" / "20"
    for item, reads in (("params", [runs.load_run]), ("meta", [runs.load_run, runs.read_meta])):
        path = max((newest / item).rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
        flip(path, 5)
        for read in reads:
            with pytest.raises(UserError, match=r"checkpoint .*/20 is damaged: .* expected .*; use another checkpoint"):
                read(tmp_path)
        flip(path, 5)
    assert newest.is_dir(), "only the run that owns the folder renames anything in it"
