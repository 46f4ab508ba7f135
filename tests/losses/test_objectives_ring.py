"""The rings, one-way and two-way, against the dense loss on up to 8 simulated devices, including parameter gradients;
what they send, and their memory."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from naturel_jax.config import Config, Objective
from naturel_jax.devices.sharding import AXES, BATCH_AXES, batch_sharding, neighbours, ring_order
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.losses.tiles import EXCHANGES, Layout
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.planning.compiled import collectives
from naturel_jax.training.loss import Loss
from tests.helpers.expanded_batch import expand, random_graph, reference
from tests.helpers.losses import BIAS, OLD_EMITTERS, QUICK, RECIPES, SCALE, TOLERANCE, assert_equal, compiled, run, take


@functools.cache
def mesh(data: int, fsdp: int = 1, tensor: int = 1, reverse: bool = False) -> Mesh:
    devices = jax.devices()[: data * fsdp * tensor]
    devices = np.array(devices[::-1] if reverse else devices)
    return Mesh(devices.reshape(data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


SLOW = pytest.mark.slow
MESHES = [
    pytest.param((4,), id="4"),
    pytest.param((2, 2, 2), id="2 x fsdp 2 x tensor 2"),
    pytest.param((2,), id="2", marks=SLOW),
    pytest.param((8,), id="8", marks=SLOW),
    pytest.param((2, 2), id="2 x fsdp 2", marks=SLOW),
    pytest.param((1, 4), id="fsdp 4", marks=SLOW),
]


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize(
    ("objective", "counting"),
    [("sigmoid", "published"), ("softmax", "published"), pytest.param("softmax", "match_ignore", marks=SLOW)],
)
def test_ring_matches_the_expanded_batch(objective, counting, sizes):
    graph = random_graph(10, **RECIPES["all_pairs"])
    expected = reference(graph, objective, SCALE, BIAS, counting=counting, hard_negative_weight=2.0)
    step = compiled(objective, counting, hard=2.0, layout=Layout(mesh(*sizes), BATCH_AXES, tile=2))
    for dtype, tolerance in TOLERANCE.items():
        with jax.enable_x64(dtype == "float64"):
            assert_equal(run(step, graph.astype(dtype)), expected, tolerance)


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
@pytest.mark.parametrize("devices", [3, 8, *(pytest.param(count, marks=SLOW) for count in (1, 2, 4, 5))])
def test_two_way_ring_matches_the_expanded_batch(objective, devices):
    """With an odd number of captions on each device, so that its halves differ; the same bits each time."""
    graph = random_graph(13, images=4 * devices, captions=15 * devices, **RECIPES["all_pairs"])
    expected = reference(graph, objective, SCALE, BIAS, hard_negative_weight=2.0)
    layout = Layout(mesh(devices), BATCH_AXES, tile=5, exchange="two_way_ring")
    step, graph = compiled(objective, hard=2.0, layout=layout), graph.astype("float32")
    ours = run(step, graph)
    assert_equal(ours, expected, TOLERANCE["float32"])
    jax.tree.map(np.testing.assert_array_equal, ours, run(step, graph))


@pytest.mark.parametrize("exchange", ["ring", *(pytest.param(name, marks=pytest.mark.slow) for name in EXCHANGES[1:])])
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_a_smaller_last_tile_matches_the_expanded_batch(objective, exchange):
    """A ring of two devices with 13 captions each, in tiles of 4."""
    graph = random_graph(15, captions=26, **RECIPES["all_pairs"])
    expected = reference(graph, objective, SCALE, BIAS, counting="match_ignore", hard_negative_weight=2.0)
    step = compiled(objective, "match_ignore", hard=2.0, layout=Layout(mesh(2), BATCH_AXES, tile=7, exchange=exchange))
    for dtype, tolerance in TOLERANCE.items():
        with jax.enable_x64(dtype == "float64"):
            assert_equal(run(step, jax.device_put(graph.astype(dtype), batch_sharding(mesh(2)))), expected, tolerance)


@pytest.mark.parametrize("exchange", ["ring", "two_way_ring"])
def test_each_block_is_sent_no_further_than_it_is_needed(exchange):
    """With n devices, captions of width D make n - 1 hops for the value, and n - 1 for the gradient; sums of gradients
    make n + 1, the last of them home. Half of each goes either way in the two-way ring."""
    devices, width, rows = 4, 24, 6
    graph = random_graph(14, images=4 * devices, captions=rows * devices, **RECIPES["two_pairs"]).astype("float32")
    graph = graph._replace(zimg_ID=np.ones((4 * devices, width), "f4"), zcap_UD=np.ones((rows * devices, width), "f4"))
    step = compiled("sigmoid", layout=Layout(mesh(devices), BATCH_AXES, exchange=exchange))
    scalars = np.float32(SCALE), np.float32(BIAS)
    lowered = step.lower(graph.zimg_ID, graph.zcap_UD, *scalars, graph.images, graph.captions)
    found = [one for one in collectives(lowered.compile().as_text()) if one.kind == "collective-permute"]
    ways = {"ring": ["0 to 1"], "two_way_ring": ["0 to 1", "1 to 0"]}[exchange]
    assert sorted({one.way for one in found}) == ways
    for way in ways:
        blocks = [one.runs for one in found if one.way == way and one.bytes == 4 * rows * width // len(ways)]
        assert sum(blocks) == 2 * (devices - 1) + (devices + 1)


@pytest.mark.parametrize("sides", [(2, 4), (16, 16), (3, 4, 1), (4, 3), (4, 4, 4, 2), (5, 3, 2)])
def test_ring_passes_from_neighbour_to_neighbour(sides):
    places = list(itertools.product(*map(range, sides)))
    ring = neighbours(places)
    assert sorted(ring) == list(range(len(places)))
    steps = np.abs(np.diff([places[n] for n in [*ring, ring[0]]], axis=0)).sum(1)
    assert (steps == 1).all()


def test_ring_of_devices_that_are_not_a_grid_is_as_listed():
    assert neighbours([(0, 1), (1, 0), (1, 1)]) == [0, 1, 2]
    assert neighbours([(0, 0), (0, 1)] * 2) == [0, 1, 2, 3], "two slices"
    assert Layout(mesh(2, 2), BATCH_AXES).ring == [0, 1, 2, 3], "CPUs do not say where they are"


def test_ring_of_gpus_is_as_listed():
    """JAX 0.10.2 gives a GPU coordinates (host, process, card), but no core on a chip, as it gives a TPU."""
    cards = [SimpleNamespace(coords=[host, 0, card]) for host in range(2) for card in range(3)]
    devices = np.array(cards, object).reshape(2, 3, 1)
    gpus = SimpleNamespace(axis_names=AXES, devices=devices, shape=dict(zip(AXES, devices.shape, strict=True)))
    assert ring_order(gpus, BATCH_AXES) == list(range(6))


def test_an_exchange_that_was_not_chosen_is_an_error():
    with pytest.raises(ValueError, match="exchange 'auto': expected one of"):
        Layout(exchange="auto")


def test_loss_does_not_depend_on_device_order():
    graph = random_graph(11, **RECIPES["two_pairs"])
    expected = reference(graph, "softmax", SCALE, BIAS)
    blocks = np.arange(16).reshape(4, 4)[[2, 0, 3, 1]].ravel()
    moved = take(graph, blocks, slice(None))
    layout = Layout(mesh(4, reverse=True), BATCH_AXES)
    value, (dimage, *rest) = run(compiled("softmax", layout=layout), moved.astype("float32"))
    back = np.empty_like(dimage)
    back[blocks] = dimage
    assert_equal((value, [back, *rest]), expected, 1e-5)


def memory(objective: str, layout: Layout, images: int, captions: int, width: int, **options) -> int:
    """Bytes of temporaries of loss and gradient on each device, with so many rows there: the compiler's analysis."""
    place = batch_sharding(layout.mesh)

    def rows(n, *shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((n * layout.mesh.size, *shape), dtype, sharding=place)

    ids = functools.partial(rows, dtype=jnp.int32)
    image_labels = ImageLabels(rows(images), ids(images, 1), ids(images, 1), ids(images, 4))
    caption_labels = CaptionLabels(rows(captions), ids(captions), ids(captions, 1))
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    embeddings = rows(images, width), rows(captions, width)
    lowered = compiled(objective, layout=layout).lower(*embeddings, scalar, scalar, image_labels, caption_labels)
    return lowered.compile(options).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("exchange", ["ring", "two_way_ring"])
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_memory_per_device_does_not_grow_with_devices(objective, exchange):
    """With the same number of rows per device."""
    two, eight = (Layout(mesh(devices), BATCH_AXES, exchange=exchange) for devices in (2, 8))
    assert 0 < memory(objective, eight, 64, 64, 32) <= 1.1 * memory(objective, two, 64, 64, 32)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_a_smaller_last_tile_takes_no_more_memory(objective):
    """1,021 captions in tiles of 256, instead of 1,024 in tiles of 512; in programs that are optimized."""
    optimized = {"xla_backend_optimization_level": 3, **dict.fromkeys(OLD_EMITTERS, True)}
    layout = Layout(mesh(8), BATCH_AXES, tile=512)
    prime, even = (memory(objective, layout, 512, captions, 512, **optimized) for captions in (1021, 1024))
    assert 0 < prime <= 1.1 * even


# ---- Parameter gradients ---------------------------------------------------------------------------------------------


def tiny_model() -> Model:
    config = preset("tiny-clip")
    towers = {
        name: dataclasses.replace(
            part, transformer=dataclasses.replace(part.transformer, width=32, mlp_dim=64, depth=1, heads=2)
        )
        for name, part in (("image", config.image), ("text", config.text))
    }
    image = dataclasses.replace(towers["image"], size=24, patch=12)
    text = dataclasses.replace(towers["text"], vocab=64, context=8)
    return Model(dataclasses.replace(config, image=image, text=text, embed_dim=16, init_bias=-3.0))


def batches() -> tuple[Batch, Batch]:
    """A batch with multiplicities, and the same batch with one row per copy: four copies of each image, each with one
    of its captions."""
    graph = random_graph(12, images=16, captions=24, **RECIPES["all_pairs"]).astype("float32")
    rng = np.random.default_rng(12)
    pixels = rng.integers(0, 256, (16, 24, 24, 3), np.uint8)
    tokens = rng.integers(3, 64, (24, 8)).astype(np.int32)
    tokens[:, 5:] = 1
    rows = expand(graph, "published", 1.0)
    none = np.full((len(rows.image_N), 1), -1, np.int32)
    positives_N1 = np.array([np.append(np.flatnonzero(row), -1)[:1] for row in rows.positive_NM], np.int32)
    images = ImageLabels(np.ones(len(rows.image_N), np.float32), positives_N1, none, none)
    ids = np.arange(len(rows.caption_M), dtype=np.int32)
    captions = CaptionLabels(np.ones(len(ids), np.float32), ids, np.full((len(ids), 1), -2, np.int32))
    expanded = Batch(pixels[rows.image_N], tokens[rows.caption_M], images, captions)
    return Batch(pixels, tokens, graph.images, graph.captions), expanded


@pytest.mark.parametrize("name", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_parameter_gradients_match_the_expanded_batch(name):
    """The weighted batch gathered, on a ring of 4 x 2 devices, and on the two-way ring in chunks (GradCache)."""
    model, (batch, expanded) = tiny_model(), batches()
    params = model.init(jax.random.key(0))

    def value_and_grad(batch, exchange, chunks):
        config = Config(objective=Objective(name=name, exchange=exchange, tile=64, chunks=chunks))
        loss = Loss(config, model, ((0.5,) * 3, (0.5,) * 3), params, mesh(4, 2), exchange)
        step = jax.jit(loss.value_and_grad, compiler_options=QUICK)
        placed = batch if exchange == "gather" else jax.device_put(batch, batch_sharding(mesh(4, 2)))
        (value, _), gradient = step(params, placed)
        return value, jax.tree.leaves(gradient)

    expected = value_and_grad(expanded, "gather", chunks=1)
    for exchange, chunks in (("gather", 1), ("ring", 1), ("two_way_ring", 2)):
        assert_equal(value_and_grad(batch, exchange, chunks), expected, 1e-5)
