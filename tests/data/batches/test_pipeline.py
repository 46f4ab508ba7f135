"""Batches on the mesh do not depend on readers or the number of devices."""

import pickle

import jax
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.data.batches.buffers import Buffers
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.batches.planner import BLANK, MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items.items import Source
from naturel_jax.devices.sharding import batch_sharding, make_mesh
from naturel_jax.models.presets import preset
from tests.helpers import pipelines
from tests.helpers.caption_groups import mesh, processor, source
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining


@pytest.fixture(scope="module")
def clip():
    return processor("clip")


def pipeline(clip, data: Source, devices: int = 1, **reading) -> Pipeline:
    part = MixturePart(data.items, recipe("single_pair"))
    plans = Planner([part], clip, batch_size=4, shards=devices, seed=7, trim_eos=1)
    return pipelines.make(plans, [data], Crops(24, (0.8, 1.0)), mesh(devices), **reading)


def test_batches_do_not_depend_on_threads_or_start_step(clip):
    data = source()
    first = list(pipeline(clip, data, threads=1).batches(0, 5))
    again = list(pipeline(clip, data, threads=4).batches(2, 5))
    assert len(first) == 5 and len(again) == 3
    for one, other in zip(first[2:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_largest_batch_is_looked_for_in_the_whole_run(clip, monkeypatch):
    """Here, captions get longer from step to step."""
    made = pipeline(clip, source())
    plan, asked = made.planner.plan, []

    def longer(step):
        asked.append(step)
        found = plan(step)
        return found._replace(tokens=np.pad(found.tokens, ((0, 0), (0, step))))

    monkeypatch.setattr(made.planner, "plan", longer)
    assert made.largest_shapes(80).captions_to_embed == made.shapes(70).captions_to_embed
    assert asked == [*range(0, 80, 10), 70]
    assert made.largest_shapes(0).captions_to_embed == made.shapes(0).captions_to_embed, "a run that evaluates only"


def test_images_do_not_depend_on_device_count(clip):
    """Also, the sentinel is white."""

    def images(devices):
        pipe = pipeline(clip, source(), devices)
        (batch,) = pipe.batches(3, 4)
        rows = pipe.planner.plan(3).rows
        assert batch.images.sharding == batch_sharding(mesh(devices))
        return dict(zip(rows, np.asarray(batch.images), strict=True))

    one, four = images(1), images(4)
    assert one.keys() == four.keys() and len(one) == 5
    jax.tree.map(np.testing.assert_array_equal, list(one.values()), [four[row] for row in one])
    assert (one[BLANK] == 255).all()


def config(**part) -> c.Config:
    """A config whose mixture has one part, ``main``, with the data of ``source``."""
    raw = c.base()
    raw.preset, raw.seed, raw.data.batch_size, raw.objective.chunks = "tiny-clip", 3, 8, 2
    raw.data.mixture.main = c.part(**{"dataset": "tiny", "recipe": "single_pair"} | part)
    return c.load(raw)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pipeline_from_a_config(family, clip):
    model = preset(f"tiny-{family}")
    data, mesh = source(16), make_mesh({"data": -1})
    pipe = make_pipeline(config(), [data], model, processor(family), mesh)
    (batch,) = pipe.batches(0, 1)
    assert batch.images.shape == (16, *[model.image.size] * 2, 3)  # 8 shards, each an image and its sentinel
    whole = batch.tokens.shape[1] == model.text.context
    assert whole == (family == "siglip"), "only a causal tower's text is truncated"
    part, trim = MixturePart(data.items, recipe("single_pair")), model.text.eos_id if family == "clip" else None
    again = Planner([part], processor(family), batch_size=8, shards=8, seed=3, trim_eos=trim, chunks=2)
    jax.tree.map(np.testing.assert_array_equal, tuple(batch)[1:4], tuple(again.plan(0))[1:4])


def test_hard_images_of_a_config(clip, tmp_path):
    data, mesh, path = source(16), make_mesh({"data": -1}), tmp_path / "hard.parquet"

    def make():
        return make_pipeline(config(hard_images=str(path)), [data], preset("tiny-clip"), clip, mesh)

    mining.save(path, [(f"image{n}", "Cat|on|Table", [f"image{(n + 1) % 16}"], ["swap"]) for n in range(16)])
    rows = make().planner.plan(0).rows
    assert all(mined.item == (row.item + 1) % 16 for row, mined in zip(rows[::2], rows[1::2], strict=True))
    mining.save(path, [("elsewhere", "Cat|on|Table", ["image1"], ["swap"])])
    with pytest.raises(UserError, match=r"mixture\.main\.hard_images is .*hard\.parquet.*'elsewhere' is not in"):
        make()
    path.write_text("not Parquet")
    with pytest.raises(UserError, match=r"mixture\.main\.hard_images is .*hard\.parquet.*expected a Parquet file"):
        make()


def test_memory_of_a_batch_is_used_again_only_when_nothing_refers_to_it():
    buffers = Buffers()
    first = buffers.array((4, 2))
    first[:] = 7
    view = first[1:3].reshape(-1)
    address = first.ctypes.data
    del first
    second = buffers.array((4, 2))
    second[:] = 9
    assert second.ctypes.data != address and view.tolist() == [7] * 4
    del view
    assert buffers.array((3, 2)).ctypes.data == address
    larger = buffers.array((1000, 1000))
    larger[:] = 1
    assert second.tolist() == [[9, 9]] * 4 and pickle.loads(pickle.dumps(buffers)).array((1,)).shape == (1,)


def test_batches_stay_as_they_were_while_later_ones_are_made(clip):
    """Arrays of a CPU are views of the memory that the images were read into."""
    pipe = pipeline(clip, source(), threads=2)
    kept = list(pipe.batches(0, 12))
    copies = [np.array(batch.images) for batch in kept]
    for number, batch in enumerate(pipe.batches(0, 12)):
        np.testing.assert_array_equal(copies[number], batch.images)
        np.testing.assert_array_equal(copies[number], kept[number].images)
    assert len({copy.tobytes() for copy in copies}) == 12
