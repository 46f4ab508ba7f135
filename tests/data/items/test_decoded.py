"""Decoded images on disk: batches equal those that are decoded each time, and damage, kills and changes are found."""

import dataclasses
import functools
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import absl.flags
import jax
import numpy as np
import pytest
from PIL import Image

from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.images.boxes import Box, random_boxes
from naturel_jax.data.items import decoded, decoded_writer
from naturel_jax.data.items.items import Source
from naturel_jax.data.random.draws import Draws
from tests.helpers import decoding, pipelines
from tests.helpers.caption_groups import items, jpeg, mesh, processor
from tests.helpers.image_files import photo
from tests.helpers.worlds import ROOT, Run, losses, parameters, two_processes, wait_for
from tfds_naturel.common.errors import UserError

SIZE, SCALE = 48, (0.8, 1.0)
CROPS = Crops(SIZE, SCALE)
SMALL = [(69, 69), (69, 90), (90, 64), (40, 30), (120, 50), (50, 160), (64, 65), (69, 101)]  # width, height
LARGE = [(300, 200), (171, 256), (256, 256), (500, 90)]


def source(files: list[bytes]) -> Source:
    return Source(items(len(files)), files.__getitem__)


def batches(data: Source, crops=CROPS, devices: int = 4, steps: int = 6, **reading) -> list[np.ndarray]:
    """The images of a few steps."""
    parts = [MixturePart(data.items, recipe("single_pair"))]
    plans = Planner(parts, processor("clip"), batch_size=4, shards=devices, seed=7, trim_eos=1)
    pipe = pipelines.make(plans, [data], crops, mesh(devices), **reading)
    return [np.asarray(batch.images) for batch in pipe.batches(0, steps)]


def test_small_images_give_the_same_batches(tmp_path):
    """Bit for bit, with the boxes of any draw."""
    assert decoded.longest(CROPS) == 69
    data = source([jpeg(n, *sides) for n, sides in enumerate(SMALL)])
    cached = decoded_writer.decode(data, CROPS, tmp_path)
    for shrink_by in ("area", "bilinear"):
        crops = CROPS._replace(shrink_by=shrink_by)
        np.testing.assert_array_equal(batches(cached, crops), batches(data, crops))
    assert [cached.decoded[n].pixels.shape for n in (1, 4)] == [(90, 69, 3), (50, 50, 3)], (
        "of an image that is too narrow for other boxes, the centred square is kept"
    )


@pytest.mark.parametrize("shrink_by", ["area", "bilinear"])
def test_without_random_crops_all_images_give_the_same_batches(shrink_by, tmp_path):
    """The model's pixels are kept."""
    data = source([jpeg(n, *sides) for n, sides in enumerate(SMALL + LARGE)])
    crops = Crops(SIZE, (1.0, 1.0), shrink_by)
    cached = decoded_writer.decode(data, crops, tmp_path)
    np.testing.assert_array_equal(batches(cached, crops), batches(data, crops))
    assert {kept.pixels.shape for kept in map(cached.decoded.__getitem__, range(12))} == {(SIZE, SIZE, 3)}


@pytest.mark.parametrize("sides", [(450, 340), (480, 640), (1024, 768)])
def test_large_images_are_shrunk_once_and_boxes_move_by_half_a_pixel_that_is_kept(sides):
    """At the moved edges, the pixels are nearly those that Pillow computes from the original in one step."""
    crops, (width, height) = Crops(224, (0.9, 1.0)), sides
    data = photo(width, height)
    pixels, _ = decoded.keep(data, crops)
    kept = decoded.Kept(width, height, Box(0, 0, width, height), pixels)
    assert min(pixels.shape[:2]) == decoded.longest(crops) == 304
    factors = np.tile([pixels.shape[1] / width, pixels.shape[0] / height], 2)
    draws, count = Draws(0, 2, np.arange(8)), np.full(8, 1)
    out, address = np.empty((224, 224, 3), np.uint8), pixels.ctypes.data
    for box in random_boxes(count * width, count * height, count == 0, crops.scale, draws).each():
        view = kept.crop(box)
        top, left = divmod((view.ctypes.data - address) // 3, pixels.shape[1])
        edges = np.array([left, top, left + view.shape[1], top + view.shape[0]])
        exact = np.array([box.left, box.top, box.left + box.width, box.top + box.height]) * factors
        assert np.abs(edges - exact).max() <= 0.5
        kept.fill(box, out, crops.shrink_by)
        original = Image.open(io.BytesIO(data))
        at_once = original.resize((224, 224), Image.Resampling.BICUBIC, (edges / factors).tolist())
        assert np.abs(np.asarray(at_once, float) - out).mean() < 5


@pytest.fixture
def small(tmp_path) -> Source:
    """Decoded images in ``tmp_path``."""
    return decoded_writer.decode(source([jpeg(n, 60, 50) for n in range(8)]), CROPS, tmp_path)


def folder_of(root: Path) -> Path:
    (folder,) = (root / "decoded").iterdir()
    return folder


def test_damaged_pixels_are_decoded_again(small, tmp_path, caplog):
    expected, path = batches(small), decoded.pixels_path(folder_of(tmp_path), 0)
    content = bytearray(path.read_bytes())
    content[3 * 60 * 50 * 5 + 100] ^= 1
    path.write_bytes(content)
    again = pickle.loads(pickle.dumps(small.decoded))
    np.testing.assert_array_equal(batches(dataclasses.replace(small, decoded=again)), expected)
    assert "00000.uint8: the pixels of image 5 were damaged; it was decoded again" in caplog.text
    content[3 * 60 * 50 * 5 + 100] ^= 1
    assert path.read_bytes() == content


def test_damaged_pixels_of_another_image_than_before_are_an_error(small, tmp_path):
    path = decoded.pixels_path(folder_of(tmp_path), 0)
    path.write_bytes(bytes(path.stat().st_size))
    other = decoded.Decoded(folder_of(tmp_path), CROPS, lambda n: jpeg(n + 1, 60, 50), 8)
    with pytest.raises(UserError, match=r"image 'image\d': is damaged in .*00000\.uint8, and its file has changed"):
        batches(dataclasses.replace(small, decoded=other))


@pytest.mark.parametrize(
    ("path", "message"), [(decoded.rows_path, "does not have its checksum"), (decoded.pixels_path, "has 71,999 bytes")]
)
def test_damaged_block_is_decoded_again(path, message, small, tmp_path, caplog):
    damaged = path(folder_of(tmp_path), 0)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    decoded_writer.decode(dataclasses.replace(small, decoded=None), CROPS, tmp_path)
    assert message in caplog.text and damaged.read_bytes() == whole


def test_images_that_have_changed_are_decoded_again(small, tmp_path, caplog):
    """Though records, and so the folder, are the same."""
    changed = dataclasses.replace(small, read_image=lambda n: jpeg(n + 1, 60, 50), decoded=None)
    again = decoded_writer.decode(changed, CROPS, tmp_path)
    assert "image 'image0' is not the one that was decoded; all are decoded again" in caplog.text
    assert len(list((tmp_path / "decoded").iterdir())) == 1
    np.testing.assert_array_equal(again.decoded[0].pixels, small.decoded[1].pixels)


def test_interrupted_decoding_of_changed_images_starts_again(tmp_path, monkeypatch, caplog):
    def interrupted(function, jobs, workers):
        yield function(*jobs[0])
        raise KeyboardInterrupt

    data = decoding.decode(tmp_path, stop=False)
    changed = dataclasses.replace(data, read_image=lambda n: jpeg(77 if n == 0 else n % 10, 12, 10), decoded=None)
    decode = functools.partial(decoded_writer.decode, changed, Crops(8, (0.9, 1.0)), tmp_path, workers=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoded_writer, "parallel", interrupted)
        decode()
    caplog.set_level(logging.INFO)
    decode()
    assert [line for line in caplog.messages if "blocks" in line] == [
        f"tiny: decoded {n} of 3 blocks" for n in (2, 3)
    ], "the first one was whole"


def test_size_is_said_beforehand_and_must_fit_the_disk(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    data = source([jpeg(n, 60, 50) for n in range(8)])
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=71_999))
    with pytest.raises(OSError, match=r"decoded images of tiny: 72,000 bytes are to be written .* 71,999 free"):
        decoded_writer.decode(data, CROPS, tmp_path)
    assert "decoding 8 images for a model of 48 pixels into" in caplog.text


def test_other_sizes_scales_and_records_have_folders_of_their_own(small, tmp_path):
    plain = dataclasses.replace(small, decoded=None)
    decoded_writer.decode(plain, CROPS._replace(size=49), tmp_path)
    decoded_writer.decode(plain, CROPS._replace(scale=(0.5, 1.0)), tmp_path)
    left_out = dataclasses.replace(plain.items, left_out=np.array([3]))
    fewer = decoded_writer.decode(dataclasses.replace(plain, items=left_out), CROPS, tmp_path)
    assert len(list((tmp_path / "decoded").iterdir())) == 4
    assert fewer.decoded.rows_N["kept_width"].tolist() == [60, 60, 60, 0, 60, 60, 60, 60]
    np.testing.assert_array_equal(fewer.decoded[4].pixels, small.decoded[4].pixels)


def test_error_names_an_image_that_cannot_be_decoded(tmp_path):
    files = [jpeg(n, 60, 50) for n in range(8)]
    files[5] = files[5][:80]
    with pytest.raises(UserError, match=r"tiny, image 'image5': not a readable JPEG \(80 bytes\)"):
        decoded_writer.decode(source(files), CROPS, tmp_path)


def test_one_of_several_processes_decodes(tmp_path):
    """The others wait, and read what it wrote."""
    files, reads = [jpeg(n, 60, 50) for n in range(8)], []
    data = dataclasses.replace(source(files), read_image=lambda n: reads.append(n) or files[n])
    first = functools.partial(decoded_writer.decode, data, CROPS, tmp_path)
    threads = [threading.Thread(target=first) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == (1 + 3) * 8, "a sample of all eight is read by each, and all are read by one"


def test_killed_process_continues_with_the_next_block(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, f"{ROOT}/tests/helpers/decoding.py", str(tmp_path / "killed")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGKILL)
    folder = folder_of(tmp_path / "killed")
    first = decoded.pixels_path(folder, 0)
    assert sorted(folder.glob("*.uint8")) == [first] and (folder / "00001.partial").exists()
    written = first.stat().st_ino
    decoding.decode(tmp_path / "killed", stop=False)
    decoding.decode(tmp_path / "whole", stop=False)
    whole = folder_of(tmp_path / "whole")
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in folder.iterdir()) and len(names) == 3 * 2 + 2
    assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert first.stat().st_ino == written, "the first block was not written again"


@pytest.mark.slow
def test_worker_processes_decode_and_read_the_same(tmp_path):
    absl.flags.FLAGS.mark_as_parsed()
    data = source([jpeg(n, 60, 50) for n in range(10)] * 210)
    one, two = (decoded_writer.decode(data, CROPS, tmp_path / str(n), workers=n) for n in (1, 2))
    for path in folder_of(tmp_path / "1").glob("0*"):
        assert path.read_bytes() == (folder_of(tmp_path / "2") / path.name).read_bytes(), path.name
    np.testing.assert_array_equal(batches(two, workers=2, steps=3), batches(one, steps=3))


@pytest.mark.proof
def test_run_with_decoded_images_is_the_same_run(tmp_path):
    """The drawn world's images are small, so cropping them on the host gives the same as decoding them each time. One
    of the runs is stopped, and continues."""
    flags = ("--config.data.cache=decoded", f"--config.data.cache_dir={tmp_path}/cache")
    plain = Run(tmp_path / "plain")
    cached = Run(tmp_path / "cached", *flags)
    wait_for(cached, (tmp_path / "cached" / "checkpoints" / "5").exists)
    cached.process.send_signal(signal.SIGTERM)
    assert cached.wait() == 75
    text = Run(tmp_path / "cached", *flags).finish()
    plain.finish()
    assert "continuing" in text and "decoding" not in text and "decoding 200 images" in cached.output()

    assert losses(tmp_path / "cached") == losses(tmp_path / "plain") and len(losses(tmp_path / "plain")) == 20
    before, after = parameters(tmp_path / "plain"), parameters(tmp_path / "cached")
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.proof
def test_two_processes_share_what_one_of_them_decodes(tmp_path):
    flags = ("--config.data.cache=decoded", "--config.duration=8 steps")
    one = Run(tmp_path / "one", *flags, f"--config.data.cache_dir={tmp_path}/one-cache", "--cpu_devices=8")
    one.finish()
    runs = two_processes(tmp_path / "two", *flags, f"--config.data.cache_dir={tmp_path}/cache")
    assert sum("decoding 200 images" in run.finish() for run in runs) == 1
    expected = losses(tmp_path / "one")
    assert len(expected) == 8 and losses(tmp_path / "two") == pytest.approx(expected, rel=1e-5)
