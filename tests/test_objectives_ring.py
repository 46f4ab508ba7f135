"""The ring against the dense loss on 2, 4 and 8 simulated devices, including parameter gradients, and its memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expanded_batch import expand, random_graph, reference
from jax.sharding import AxisType, Mesh
from losses import BIAS, QUICK, RECIPES, SCALE, TOLERANCE, assert_equal, compiled, run, take

from naturel_jax.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.config import Config, Objective
from naturel_jax.gradcache import Loss
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.sharding import AXES, BATCH_AXES, batch_sharding
from naturel_jax.tiles import Layout


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


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_memory_per_device_does_not_grow_with_devices(objective):
    """With the same number of rows per device, from the compiler's memory analysis."""

    def bytes_of(devices: int) -> int:
        place = batch_sharding(mesh(devices))

        def rows(n, *shape, dtype=jnp.float32):
            return jax.ShapeDtypeStruct((n * devices, *shape), dtype, sharding=place)

        ids = functools.partial(rows, dtype=jnp.int32)
        labels = ImageLabels(rows(64), ids(64, 1), ids(64, 1), ids(64, 4)), CaptionLabels(rows(64), ids(64), ids(64, 1))
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        step = compiled(objective, layout=Layout(mesh(devices), BATCH_AXES))
        return (
            step.lower(rows(64, 32), rows(64, 32), scalar, scalar, *labels)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert 0 < bytes_of(8) <= 1.1 * bytes_of(2)


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


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_parameter_gradients_match_the_expanded_batch(name):
    """The weighted batch without the ring, on a ring of 4 x 2 devices, and on the ring in chunks (GradCache)."""
    model, (batch, expanded) = tiny_model(), batches()
    params = model.init(jax.random.key(0))

    def value_and_grad(batch, ring, chunks):
        config = Config(objective=Objective(name=name, ring=ring, tile=64, chunks=chunks))
        loss = Loss(config, model, ((0.5,) * 3, (0.5,) * 3), params, mesh(4, 2))
        step = jax.jit(loss.value_and_grad, compiler_options=QUICK)
        value, gradient = step(params, jax.device_put(batch, batch_sharding(mesh(4, 2))) if ring else batch)
        return value, jax.tree.leaves(gradient)

    expected = value_and_grad(expanded, ring=False, chunks=1)
    for ring, chunks in ((False, 1), (True, 1), (True, 2)):
        assert_equal(value_and_grad(batch, ring, chunks), expected, 1e-5)
