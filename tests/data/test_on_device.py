"""Crops that devices resize, against OpenCV's bilinear resizing of the same boxes on the host."""

import cv2
import jax
import numpy as np
import pytest

from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.images.boxes import random_boxes
from naturel_jax.data.images.on_device import make_resize
from naturel_jax.data.items import decoded_writer
from naturel_jax.data.items.items import Source
from naturel_jax.data.random.draws import AUGMENT, Draws
from naturel_jax.devices.sharding import BATCH_AXES, batch_sharding, make_mesh
from tests.helpers import pipelines
from tests.helpers.caption_groups import items, jpeg, mesh, processor

SIZE, SCALE, SEED = 48, (0.3, 1.0), 7
SIDES = [(60, 60), (60, 75), (75, 60), (30, 40), (300, 200), (171, 256), (500, 90), (51, 49)]  # width, height


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Source:
    files = [jpeg(n, *sides) for n, sides in enumerate(SIDES)]
    return decoded_writer.decode(
        Source(items(8), files.__getitem__), Crops(SIZE, SCALE), tmp_path_factory.mktemp("decoded")
    )


def pipeline(data: Source, devices: int, **options) -> Pipeline:
    part = MixturePart(data.items, recipe("single_pair"))
    plans = Planner([part], processor("clip"), batch_size=8, shards=devices, seed=SEED, trim_eos=1)
    return pipelines.make(plans, [data], Crops(SIZE, SCALE), mesh(devices), **options)


def bilinear(data: Source, pipe: Pipeline, step: int) -> np.ndarray:
    """The images of a batch: the boxes of the pipeline on the host, resized by OpenCV."""
    rows = pipe.planner.plan(step).rows
    sides = np.array([SIDES[row.item] if row.source == 0 else (1, 1) for row in rows])
    draws = Draws(SEED, AUGMENT, rows.sample_I)
    images = []
    for row, box in zip(rows, random_boxes(*sides.T, rows.mirror_I.astype(bool), SCALE, draws).each(), strict=True):
        crop = data.decoded[row.item].crop(box) if row.source == 0 else np.full((1, 1, 3), 255, np.uint8)
        image = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        images.append(image[:, ::-1] if box.mirrored else image)
    return np.array(images)


def test_pixels_are_those_of_the_host(data):
    """Of a batch that is split over four devices, and other batches of its run."""
    pipe = pipeline(data, 4, cropped="device")
    batches = list(pipe.batches(0, 6))
    assert batches[0].images.shape == (12, SIZE, SIZE, 3) and batches[0].images.dtype == np.uint8
    assert batches[0].images.sharding == batch_sharding(mesh(4))
    for step, batch in enumerate(batches):
        difference = np.abs(np.asarray(batch.images, int) - bilinear(data, pipe, step))
        assert difference.max() <= 2 and difference.mean() < 0.1


def test_batches_are_otherwise_those_of_the_host(data):
    """And do not depend on threads, devices or the first step."""
    there = list(pipeline(data, 4, cropped="device").batches(0, 4))
    again = list(pipeline(data, 4, cropped="device", threads=3).batches(2, 4))
    here = list(pipeline(data, 4).batches(0, 4))
    for one, other in zip(there[2:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    for one, other in zip(there, here, strict=True):
        jax.tree.map(np.testing.assert_array_equal, tuple(one)[1:], tuple(other)[1:])
        assert np.abs(np.asarray(one.images, float) - np.asarray(other.images, float)).mean() < 4, "another filter"
    (single,) = pipeline(data, 1, cropped="device").batches(3, 4)
    images = dict(zip(pipeline(data, 1).planner.plan(3).rows, np.asarray(single.images), strict=True))
    rows = pipeline(data, 4).planner.plan(3).rows
    for row, image in zip(rows, np.asarray(there[3].images), strict=True):
        np.testing.assert_array_equal(image, images[row])


def test_what_is_sent_is_known_beforehand(data):
    """Of images that are decoded, and at most as much if they are not."""
    pipe = pipeline(data, 4, cropped="device")
    (local,) = pipe.local_batches(0, 1)
    crops, sides = pipe.crop_shapes(0)
    assert [(x.shape, x.dtype) for x in (crops, sides)] == [(x.shape, x.dtype) for x in local.batch.images]
    assert crops.sharding == sides.sharding == pipe.sharding
    unknown, _ = pipeline(Source(data.items, data.read_image), 4, cropped="device").crop_shapes(0)
    assert unknown.shape == crops.shape, "some of the photos had to be shrunk, so the largest boxes occur"
    assert pipeline(data, 4).crop_shapes(0) == ()


def test_nothing_is_passed_between_devices():
    """Also where the batch is split over one of two axes, as with tensor parallelism."""
    sharding = batch_sharding(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    assert sharding.spec[0] == BATCH_AXES
    crops = jax.ShapeDtypeStruct((16, 60, 80, 3), np.uint8, sharding=sharding)
    sides = jax.ShapeDtypeStruct((16, 3), np.int32, sharding=sharding)
    program = make_resize(SIZE, sharding).lower(crops, sides).compile()
    assert not any(name in program.as_text() for name in ("all-gather", "all-reduce", "collective", "all-to-all"))
    assert program.output_shardings == sharding


def test_what_is_beside_a_crop_does_not_matter():
    sharding = batch_sharding(mesh(1))
    crops = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), np.uint8)
    crops[1] = 0
    crops[1, :20, :25] = crops[0, :20, :25]
    one, other = np.asarray(make_resize(SIZE, sharding)(crops, np.array([[20, 25, 0]] * 2, np.int32)))
    np.testing.assert_array_equal(one, other)


def test_sources_that_are_not_decoded_are_an_error(data):
    plain = Source(data.items, data.read_image)
    with pytest.raises(ValueError, match=r"\['tiny'\] are not decoded"):
        next(pipeline(plain, 1, cropped="device").batches(0, 1))
