"""Batches on the mesh: the same whatever reads them, on any number of devices."""

import absl.flags
import jax
import numpy as np
import pytest
from caption_groups import mesh, processor, source

from naturel_jax.data.augment import Augment
from naturel_jax.data.items import Source
from naturel_jax.data.pipeline import Pipeline
from naturel_jax.data.planner import BLANK, Part, Planner
from naturel_jax.data.recipes import recipe
from naturel_jax.sharding import batch_sharding


@pytest.fixture(scope="module")
def clip():
    return processor("clip")


def pipeline(clip, data: Source, devices: int = 1, **reading) -> Pipeline:
    plans = Planner([Part(data.items, recipe("single_pair"))], clip, batch_size=4, shards=devices, seed=7, trim_eos=1)
    return Pipeline(plans, [data], Augment(24, (0.8, 1.0)), batch_sharding(mesh(devices)), **reading)


def test_threads_and_a_later_start_do_not_change_a_batch(clip):
    data = source()
    first = list(pipeline(clip, data, threads=1).batches(0, 5))
    again = list(pipeline(clip, data, threads=4).batches(2, 5))
    assert len(first) == 5 and len(again) == 3
    for one, other in zip(first[2:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_reading_processes_do_not_change_a_batch(clip):
    absl.flags.FLAGS.mark_as_parsed()
    data = source()
    for one, other in zip(
        pipeline(clip, data).batches(0, 4), pipeline(clip, data, workers=2).batches(0, 4), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_pictures_are_the_same_on_any_number_of_devices(clip):
    """And the sentinel is white."""

    def pictures(devices):
        pipe = pipeline(clip, source(), devices)
        (batch,) = pipe.batches(3, 4)
        rows = pipe.planner.plan(3).rows
        assert batch.images.sharding == batch_sharding(mesh(devices))
        return dict(zip(rows, np.asarray(batch.images), strict=True))

    one, four = pictures(1), pictures(4)
    assert one.keys() == four.keys() and len(one) == 5
    jax.tree.map(np.testing.assert_array_equal, list(one.values()), [four[row] for row in one])
    assert (one[BLANK] == 255).all()


def test_a_broken_picture_is_named(clip):
    data = source(broken=5)
    with pytest.raises(ValueError, match=r"tiny, image 'image5': not a readable JPEG \(80 bytes\)"):
        list(pipeline(clip, data).batches(0, 3))
