"""Images that devices hold: the batches are those of images that are cropped on the host and sent, bit for bit."""

import dataclasses
import functools
import os
import pickle
import signal

import jax
import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import plan
from naturel_jax.data import datasets
from naturel_jax.data.batches import resident
from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.planner import BLANK, MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.images.boxes import random_boxes
from naturel_jax.data.items import decoded, decoded_writer
from naturel_jax.data.items.items import Source
from naturel_jax.data.random.draws import Draws
from naturel_jax.devices.sharding import batch_sharding, batch_shards, make_mesh
from naturel_jax.planning import compiled
from naturel_jax.training import memory, run
from naturel_jax.training.start import make_start
from tests.helpers import pipelines, tiny_config
from tests.helpers.caption_groups import items, jpeg, mesh, processor
from tests.helpers.worlds import Run, data_dir, losses, parameters, two_processes, wait_for
from tfds_naturel.common.errors import UserError

CROPS = Crops(48, (0.3, 1.0))
SIDES = [(60, 60), (60, 75), (75, 60), (30, 40), (300, 200), (171, 256), (500, 90), (51, 49)]  # width, height
MESHES = {
    "1": {"data": 1},
    "4": {"data": 4},
    "8": {"data": 8},
    "2 x 4": {"data": 2, "fsdp": 4},
    "2 x 2, twice": {"data": 2, "fsdp": 2, "tensor": 2},
}
HELD = {"cropped": "resident"}


def made_mesh(axes: dict[str, int]) -> jax.sharding.Mesh:
    return make_mesh(axes, jax.devices()[: np.prod(list(axes.values()))])


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Source]:
    """Two, decoded; image 3 of the first is not trained on."""

    def source(name: str, first: int, count: int) -> Source:
        files = [jpeg(first + n, *SIDES[n % len(SIDES)]) for n in range(count)]
        return Source(dataclasses.replace(items(count), name=name), files.__getitem__)

    photos, others = source("photos", 0, 16), source("others", 100, 11)
    kept = dataclasses.replace(photos.items, left_out=np.array([3]))
    folder = tmp_path_factory.mktemp("decoded")
    return [decoded_writer.decode(one, CROPS, folder) for one in (dataclasses.replace(photos, items=kept), others)]


def pipeline(sources: list[Source], on: jax.sharding.Mesh, mined: bool = False, **options) -> Pipeline:
    count = len(sources[0].items.image_ids)
    hard = [((n + 4) % count if (n + 4) % count != 3 else 5,) for n in range(count)] if mined else None
    parts = [MixturePart(sources[0].items, recipe("single_pair"), 2.0, hard)]
    parts += [MixturePart(source.items, recipe("two_pairs")) for source in sources[1:]]
    plans = Planner(parts, processor("clip"), batch_size=16, shards=batch_shards(on), seed=7, trim_eos=1)
    return pipelines.make(plans, sources, CROPS, on, **options)


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES)
def test_batches_are_those_of_crops_that_are_sent(axes, mined, sources):
    """Of a mixture, with blank images and padding, and with mined hard images."""
    on = made_mesh(axes)
    sent, held = (pipeline(sources, on, mined, **options) for options in ({"cropped": "device"}, HELD))
    for step, (expected, batch) in enumerate(zip(sent.batches(0, 4), held.batches(0, 4), strict=True)):
        jax.tree.map(np.testing.assert_array_equal, jax.block_until_ready(batch), expected)
        assert batch.images.sharding == batch_sharding(on)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), held.shapes(step)) == jax.tree.map(
            lambda x: (x.shape, x.dtype, x.sharding), batch
        )
        rows = held.planner.plan(step).rows
        assert {row.source for row in rows} == {-1, 0, 1}
        assert (np.asarray(batch.images)[[row == BLANK for row in rows]] == 255).all()


def test_batches_do_not_depend_on_devices_threads_or_first_step(sources):
    pictures = []
    for devices, options in ((1, {}), (8, {"threads": 3})):
        held = pipeline(sources, mesh(devices), **HELD, **options)
        (batch,) = held.batches(3, 4)
        rows = held.planner.plan(3).rows
        pictures.append(dict(zip(rows, np.asarray(batch.images), strict=True)))
    one, eight = pictures
    assert one.keys() == eight.keys() and len(one) == 17
    jax.tree.map(np.testing.assert_array_equal, one, eight)


def test_each_image_lies_on_one_shard(sources):
    """In consecutive lines, transposed if it is wide, and no shard has more images than others by more than one."""
    on = made_mesh(MESHES["2 x 2, twice"])
    layout = resident.lay_out([source.decoded for source in sources], 4)
    lines = resident.load(layout, sources, batch_sharding(on))
    assert {shard.data.shape for shard in lines.addressable_shards} == {(1, *layout.shape[1:])}
    lines_DLX3, shards = np.asarray(lines).reshape(4, layout.lines, layout.line, 3), []
    for number, source in enumerate(sources):
        for item in source.items.images(np.arange(len(source.items))).tolist():
            (n,) = layout.numbers(np.array([number]), np.array([item]))
            pixels, first, shard = source.decoded[item].pixels, layout.line_N[n], layout.shard_N[n]
            long, short = max(pixels.shape[:2]), min(pixels.shape[:2])
            part = lines_DLX3[shard, first : first + long, :short]
            expected = pixels.transpose(1, 0, 2) if pixels.shape[1] > pixels.shape[0] else pixels
            np.testing.assert_array_equal(part, expected)
            shards.append(shard)
    assert len(shards) == 15 + 11 and np.bincount(shards).tolist() == [7, 7, 6, 6]
    assert layout.line == decoded.longest(CROPS) == 113, "the photos that were shrunk"


def test_pieces_make_the_whole(sources, monkeypatch):
    """Whatever their length: images lie across the borders of some."""
    layout = resident.lay_out([source.decoded for source in sources], 2)
    load = functools.partial(resident.load, layout, sources, batch_sharding(mesh(2)))
    whole = np.asarray(load())
    monkeypatch.setattr(resident, "PIECE", 7)
    np.testing.assert_array_equal(np.asarray(load()), whole)


def check_program(sources: list[Source], on: jax.sharding.Mesh) -> None:
    """That it needs no memory that grows with the dataset, and that its only transfer is of the images."""
    shards, sharding = batch_shards(on), batch_sharding(on)
    layout = resident.lay_out([source.decoded for source in sources], shards)._replace(lines=1 << 22)
    gather = resident.make_gather(layout, 48, sharding)
    shapes = [(layout.shape, np.uint8), ((shards, 2 * shards, 6), np.int32), ((4 * shards,), np.int32)]
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes]
    program = gather.lower(*arguments).compile()
    assert memory.per_device(arguments) > 1 << 30
    assert program.memory_analysis().temp_size_in_bytes < 64 << 20
    assert [one.kind for one in compiled.collectives(program.as_text())] == ["all-to-all"]


def test_the_dataset_is_not_copied_and_images_travel_once(sources):
    check_program(sources, mesh(4))


@pytest.mark.proof
def test_the_dataset_is_not_copied_on_tpus(sources, monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in plan.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    check_program(sources, make_mesh({"data": -1}, plan.described_devices("v5e:2x2")))


@pytest.mark.parametrize(("batch", "most"), [(16, 8), (256, 4), (4096, 2)])
def test_few_numbers_of_slots_occur(batch, most, sources):
    """Each compiles the gathering again. A device makes at most ``most`` times as many images as it receives: as many
    times as there are devices only if it receives two."""
    layout = resident.lay_out([source.decoded for source in sources], 8)
    used, found = np.flatnonzero(layout.rows_N["kept_width"]), set()
    for seed in range(50):
        number_R = np.random.default_rng(seed).choice(used, batch)
        boxes = random_boxes(*layout.sides(number_R), number_R < 0, (1.0, 1.0), Draws(seed, 2, np.arange(batch)))
        found.add(layout.slots(number_R, boxes).crops_DS6.shape)
    assert len(found) <= 3
    assert max(slots for _, slots, _ in found) <= most * batch // 8


def test_pipeline_reads_no_image(sources):
    """The images are not even opened; what is given to reading processes has none."""
    rows = [dataclasses.replace(one, decoded=pickle.loads(pickle.dumps(one.decoded))) for one in sources]
    for local in pipeline(rows, mesh(4), **HELD).local_batches(0, 2):
        assert isinstance(local.batch.images, resident.Slots)
        assert sum(array.nbytes for array in local.batch.images) < 2000


def test_damaged_image_is_named(sources, tmp_path):
    files = [jpeg(n, 60, 50) for n in range(8)]
    data = decoded_writer.decode(Source(items(8), files.__getitem__), CROPS, tmp_path)
    (path,) = tmp_path.glob("decoded/*/00000.uint8")
    path.write_bytes(bytes(path.stat().st_size))
    other = decoded.Decoded(path.parent, CROPS, lambda n: jpeg(n + 1, 60, 50), 8)
    with pytest.raises(UserError, match=r"tiny, image 'image\d': is damaged in .*00000\.uint8, and its file has chang"):
        next(pipeline([dataclasses.replace(data, decoded=other)], mesh(2), **HELD).batches(0, 1))
    again = decoded.Decoded(path.parent, CROPS, files.__getitem__, 8)
    (batch,) = pipeline([dataclasses.replace(data, decoded=again)], mesh(2), **HELD).batches(0, 1)
    assert len(np.unique(np.asarray(batch.images))) > 100, "it was decoded again"


def test_sources_that_are_not_decoded_are_an_error(sources):
    plain = [dataclasses.replace(source, decoded=None) for source in sources]
    with pytest.raises(ValueError, match=r"\['photos', 'others'\] are not decoded"):
        next(pipeline(plain, mesh(1), **HELD).batches(0, 1))


# ---- Memory ----------------------------------------------------------------------------------------------------------


def test_dataset_is_known_before_it_is_loaded(sources):
    held = pipeline(sources, mesh(4), **HELD)
    (shape,) = held.resident_shapes()
    layout = resident.lay_out([source.decoded for source in sources], 4)
    assert (shape.shape, shape.dtype, shape.sharding) == (layout.shape, np.uint8, held.sharding)
    assert memory.per_device(held.resident_shapes()) == layout.lines * layout.line * 3
    assert pipeline(sources, mesh(4), cropped="device").resident_shapes() == ()


@pytest.mark.parametrize("scale", [(0.8, 1.0), (1.0, 1.0)])
def test_dataset_that_is_not_decoded_is_estimated(scale, tmp_path):
    """As that of 4:3 photos that have to be shrunk: only the lines after the last image are not counted."""
    crops = Crops(224, scale)
    plain = Source(items(12), [jpeg(n, *(800, 600)[:: 1 - n % 2 * 2]) for n in range(12)].__getitem__)
    data = decoded_writer.decode(plain, crops, tmp_path)
    exact = resident.lay_out([data.decoded], 2).shape
    shards, lines, line = resident.estimated_shape([plain], crops, 2)
    assert (shards, line) == (exact[0], exact[2])
    assert lines == pytest.approx(sum(max(data.decoded[n].pixels.shape) for n in range(12)) / 2, rel=0.01)
    unknown = pipelines.make(pipeline([plain], mesh(2)).planner, [plain], crops, mesh(2), **HELD)
    assert memory.per_device(unknown.resident_shapes()) == lines * line


def test_dataset_that_does_not_fit_is_rejected(sources, monkeypatch):
    held = pipeline(sources, mesh(4), **HELD)
    check = functools.partial(memory.check_dataset, held.resident_shapes(), mesh=mesh(4))
    check(1 << 60)  # on a CPU, which shares the memory of the host
    monkeypatch.setattr(memory, "usable", lambda kind: memory.per_device(held.resident_shapes()) + 1000)
    check(1000)
    with pytest.raises(UserError, match=r"each cpu has .*on 4 devices.*set config\.data\.cache to 'decoded', or"):
        check(1001)


def training(folder: str, cache: str, axes: dict[str, int]) -> tuple[run.Training, jax.sharding.Mesh]:
    """Of the tiny softmax run."""
    raw, on = tiny_config.get_config(), made_mesh(axes)
    raw.data.update({"cache": cache, "augment_on": "device", "cache_dir": folder})
    raw.optim.eps = 1e-2
    config = c.load(raw)
    sources = [datasets.open_source("naturel/tiny", os.fspath(data_dir()), "train")]
    start = make_start(config, "", epath.Path(folder), sources, on)
    sources = datasets.decode_sources(config.data, sources, start.model.config.image.size)
    return run.make_training(config, start, sources, on), on


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """The folder with the tokenizer and the decoded images that all runs share."""
    return os.fspath(tmp_path_factory.mktemp("steps"))


@pytest.mark.slow
def test_losses_of_one_four_and_eight_devices(folder):
    """Of three steps; one device gets images that are sent."""

    def losses(cache: str, devices: int) -> list[float]:
        made, _ = training(folder, cache, {"data": devices})
        state, found = made.state, []
        for batch in made.pipeline.batches(0, 3):
            state, metrics = made.step(state, batch)
            found.append(float(metrics["loss"]))
        return found

    expected = losses("decoded", 1)
    for devices in (4, 8):
        np.testing.assert_allclose(losses("device", devices), expected, rtol=1e-6)


@pytest.mark.slow
def test_images_and_step_must_fit(folder, monkeypatch):
    made, on = training(folder, "device", {"data": 4})
    batch = made.pipeline.shapes(0)
    needed = memory.per_device((made.state, batch, made.pipeline.crop_shapes(0), made.pipeline.resident_shapes()))
    needed += memory.temporaries(made.loss.model, made.state.params, batch, on, 1)
    monkeypatch.setattr(memory, "usable", lambda kind: needed)
    run.check_dataset_fits(made, on)
    monkeypatch.setattr(memory, "usable", lambda kind: needed - 1)
    with pytest.raises(UserError, match=r"config\.data\.cache is 'device', but each"):
        run.check_dataset_fits(made, on)
    run.check_dataset_fits(*training(folder, "decoded", {"data": 4}))


@pytest.mark.proof
def test_runs_are_those_of_images_that_are_sent(tmp_path):
    """One is stopped, and continues on the same devices; another has two processes."""
    flags = (
        "--config.data.augment_on=device",
        f"--config.data.cache_dir={tmp_path}/cache",
        "--config.duration=12 steps",
    )
    sent = Run(tmp_path / "sent", "--config.data.cache=decoded", *flags, "--cpu_devices=8")
    sent.finish()
    flags = (*flags, "--config.data.cache=device")
    held = Run(tmp_path / "held", *flags, "--cpu_devices=8")
    wait_for(held, (tmp_path / "held" / "checkpoints" / "5").exists)
    held.process.send_signal(signal.SIGTERM)
    assert held.wait() == 75, held.output()[-3000:]
    assert "continuing" in Run(tmp_path / "held", *flags, "--cpu_devices=8").finish()
    for process in two_processes(tmp_path / "two", *flags):
        process.finish()
    expected = losses(tmp_path / "sent")
    assert losses(tmp_path / "held") == expected and len(expected) == 12
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path / "held"), parameters(tmp_path / "sent"))
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-6)
