"""Patch dropout: the towers against OpenCLIP's and the plain ones on fewer patches, the draws, batches and the loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import open_clip.transformer
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from naturel_jax import config as c
from naturel_jax.data.batches import patches
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.batches.planner import BLANK, ImageRow
from naturel_jax.devices.sharding import batch_sharding
from naturel_jax.models import flops
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model, Params
from naturel_jax.planning import compiled
from naturel_jax.training import memory
from naturel_jax.training.loss import Loss
from tests.helpers.caption_groups import mesh, processor, source
from tests.helpers.losses import QUICK
from tests.helpers.model_files import inputs, openclip_model, random_params, torch_inputs, with_blocks
from tfds_naturel.common.errors import UserError

# ---- Towers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.1, 0.25, 0.5, 0.7, 0.75, 0.99])
def test_as_many_patches_are_kept_as_in_openclip(dropout):
    layer = open_clip.transformer.PatchDropout(dropout)
    for total in (1, 2, 9, 16, 49, 196, 256, 729):
        assert patches.kept(total, dropout) == layer(torch.zeros(1, total + 1, 1)).shape[1] - 1


def test_tower_and_gradients_are_openclips(monkeypatch):
    """OpenCLIP keeps the patches whose random numbers are largest; here they are given."""
    config = with_blocks(preset("tiny-clip"), activation="gelu")
    params = random_params(config)
    pixels, _ = inputs(config)
    patches_IP = np.array([[1, 2, 5, 7, 11, 12, 15], [0, 3, 4, 8, 9, 10, 14]], np.int32)
    total = config.image.grid**2
    peer = openclip_model(config, params)
    peer.visual.patch_dropout = open_clip.transformer.PatchDropout(1 - 7.5 / total)
    random = torch.zeros(2, total).scatter_(1, torch.from_numpy(patches_IP).long(), 1.0)
    monkeypatch.setattr(torch, "randn", lambda *shape: random)
    theirs = peer.train().encode_image(torch_inputs(pixels, np.zeros((1, 1), int))[0], normalize=True)
    weight = np.random.default_rng(0).standard_normal(theirs.shape, np.float32)
    (theirs * torch.from_numpy(weight)).sum().backward()

    ours, gradient = value_and_gradient(Model(config), params, pixels, patches_IP, weight)
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=1e-5)
    visual = peer.visual
    for found, expected in (
        (gradient["position"], visual.positional_embedding),
        (gradient["class_token"], visual.class_embedding),
        (gradient["projection"]["kernel"], visual.proj),
        (gradient["transformer"]["blocks"]["mlp"]["up"]["bias"][0], visual.transformer.resblocks[0].mlp.c_fc.bias),
    ):
        largest = float(expected.grad.abs().max())
        np.testing.assert_allclose(found, expected.grad, rtol=0, atol=1e-5 * largest)


def value_and_gradient(model: Model, params: Params, pixels, patches_IP, weight) -> tuple[jax.Array, Params]:
    """The embeddings, and the gradient of their weighted sum with respect to the image tower."""

    def total(tower: Params) -> tuple[jax.Array, jax.Array]:
        zimg_ID = model.encode_image({**params, "image": tower}, pixels, patches_IP)
        return jnp.sum(zimg_ID * weight), zimg_ID

    (_, zimg_ID), gradient = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)(params["image"])
    return zimg_ID, gradient


def test_siglips_tower_is_the_plain_one_on_an_image_of_the_kept_patches():
    """The patches, as a smaller square, with their positions."""
    config = preset("tiny-siglip")
    params = random_params(config)
    pixels_IHWC, _ = inputs(config)
    side, grid, rng = config.image.patch, config.image.grid, np.random.default_rng(1)
    patches_IP = np.sort([rng.permutation(grid**2)[:9] for _ in pixels_IHWC]).astype(np.int32)
    zimg_ID = jax.jit(Model(config).encode_image, compiler_options=QUICK)(params, pixels_IHWC, patches_IP)
    plain = Model(dataclasses.replace(config, image=dataclasses.replace(config.image, size=3 * side)))
    encode = jax.jit(plain.encode_image, compiler_options=QUICK)
    for pixels_HWC, kept_P, z_D in zip(pixels_IHWC, patches_IP, zimg_ID, strict=True):
        squares = [pixels_HWC[y * side :, x * side :][:side, :side] for y, x in np.transpose(divmod(kept_P, grid))]
        small = np.concatenate([np.concatenate(squares[row : row + 3], axis=1) for row in (0, 3, 6)])
        tower = {**params["image"], "position": params["image"]["position"][kept_P]}
        np.testing.assert_allclose(encode({**params, "image": tower}, small[None])[0], z_D, rtol=0, atol=1e-5)


# ---- Draws and batches -----------------------------------------------------------------------------------------------


def test_every_patch_is_kept_equally_often_and_with_every_other():
    rows, total, count = 4000, 16, 6
    drawn = patches.draw(3, total, count, [ImageRow(0, sample=n) for n in range(rows)], step=0)
    assert drawn.shape == (rows, count) and (np.diff(drawn) > 0).all() and drawn.min() == 0 and drawn.max() == 15
    is_kept = np.zeros((rows, total))
    np.put_along_axis(is_kept, drawn, 1, axis=1)
    together = is_kept.T @ is_kept / rows
    expected = np.full((total, total), count / total * (count - 1) / (total - 1))
    np.fill_diagonal(expected, count / total)
    deviations = (together - expected) / np.sqrt(expected * (1 - expected) / rows)
    assert np.abs(deviations).max() < 4.5, "of 136 numbers, one is beyond 4.5 deviations once in 1,000 times"


def test_draws_depend_on_seed_sample_and_for_blank_images_step():
    rows = [ImageRow(0, item=5, sample=7), BLANK, ImageRow(1, item=2, sample=8), BLANK]
    drawn = patches.draw(0, 49, 24, rows, step=3).tolist()
    assert len(set(map(tuple, drawn))) == 3 and drawn[1] == drawn[3]
    assert patches.draw(0, 49, 24, rows[::-1], step=3).tolist() == drawn[::-1]
    later, other = patches.draw(0, 49, 24, rows, step=4).tolist(), patches.draw(1, 49, 24, rows, step=3).tolist()
    assert later[0] == drawn[0] and later[1] != drawn[1] and all(map(list.__ne__, other, drawn))


def config(**fields) -> c.Config:
    raw = c.base()
    raw.preset = "tiny-clip"
    raw.data.mixture.main = c.part("naturel/tiny", "single_pair")
    raw.data.batch_size = 8
    raw.objective.name = "sigmoid"  # compiles faster
    raw.update_from_flattened_dict({"data.patch_dropout": 0.5, **fields})
    return c.load(raw)


def pipeline(devices: int = 1, **fields) -> Pipeline:
    return make_pipeline(config(**fields), [source()], preset("tiny-clip"), processor("clip"), mesh(devices))


def test_batches_differ_in_the_patches_only():
    """Each image and step has its own, also if the run begins later."""
    batches = list(pipeline(4).batches(0, 3))
    plain_batches = pipeline(4, **{"data.patch_dropout": 0.0}).batches(0, 3)
    for step, (batch, plain) in enumerate(zip(batches, plain_batches, strict=True)):
        jax.tree.map(np.testing.assert_array_equal, batch._replace(patches_IP=None), plain)
        assert plain.patches_to_embed is None and batch.patches_to_embed == 8
        assert batch.patches_IP.sharding == batch_sharding(mesh(4))
        found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), pipeline(4).shapes(step).patches_IP)
        assert found == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batch.patches_IP)
    drawn = [tuple(row) for batch in batches for row in np.asarray(batch.patches_IP)[batch.image_labels.mult_I == 1]]
    assert len(drawn) == len(set(drawn)) == 3 * 8
    (last,) = pipeline(4).batches(2, 3)
    np.testing.assert_array_equal(last.patches_IP, batches[2].patches_IP)


# ---- The loss --------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_do_not_depend_on_chunks_and_devices():
    """Two chunks on one device against one chunk on eight, each of which has a sentinel of its own. The eight pass on
    captions and sum gradients: no patches."""
    params = random_params(preset("tiny-clip"))
    (value, gradient), _ = value_and_gradient_of_batch(params, 1, **{"objective.chunks": 2})
    (expected, expected_gradient), program = value_and_gradient_of_batch(params, 8)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(expected_gradient))
    for found, true in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-5 * largest)
    assert {one.kind for one in compiled.collectives(program)} == {"collective-permute", "all-reduce"}


def value_and_gradient_of_batch(params: Params, devices: int, **fields) -> tuple[tuple[float, Params], str]:
    """The loss of the first batch and its gradient, and the compiled program. Captions have given embeddings: with a
    text tower, compiling takes twice as long."""
    loss = Loss(config(**fields), Model(preset("tiny-clip")), ((0.5,) * 3, (0.5,) * 3), params, mesh(devices))
    batch = next(pipeline(devices, **fields).batches(0, 1))
    embeddings = np.random.default_rng(0).standard_normal((100, 128), np.float32) / 128**0.5
    batch = batch._replace(tokens=jax.device_put(embeddings[batch.caption_labels.id_U], batch.tokens.sharding))
    params = jax.device_put(params, NamedSharding(mesh(devices), PartitionSpec()))
    program = jax.jit(loss.value_and_grad).lower(params, batch).compile(compiler_options=QUICK)
    (value, _), gradient = jax.device_get(program(params, batch))
    return (value, gradient), program.as_text()


# ---- Costs, and what is refused --------------------------------------------------------------------------------------


def test_flops_are_xlas_and_memory_is_less():
    """A scanned block counts once at any depth, and XLA also counts what are no matrix products (``test_flops.py``)."""
    config = preset("tiny-siglip")
    tower = dataclasses.replace(config.image.transformer, width=512, depth=1, heads=1, mlp_dim=2048)
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, transformer=tower), embed_dim=512)
    model = Model(config)
    pixels = jax.ShapeDtypeStruct((3, 48, 48, 3), np.float32)
    drawn = jax.ShapeDtypeStruct((3, 5), np.int32)
    counted = jax.jit(model.encode_image).lower(model.shapes(), pixels, drawn).cost_analysis()["flops"]
    assert 3 * flops.image_flops(config, patches=5) == pytest.approx(counted, rel=0.03)
    whole, part = (memory.activations(model, 3, 0, 0, count) for count in (None, 5))
    assert 5 / 16 < part / whole < 0.5


def test_a_step_counts_the_patches_that_are_kept():
    model, batch = Model(preset("tiny-clip")), pipeline().shapes(0)
    loss = Loss(config(), model, ((0.5,) * 3, (0.5,) * 3), model.shapes(), mesh(1))
    whole = flops.step(model.config, len(batch.images), *batch.captions_to_embed).model
    less = len(batch.images) * (flops.image_flops(model.config) - flops.image_flops(model.config, patches=8))
    assert loss.step_flops(batch).model == pytest.approx(whole - 3 * less)


@pytest.mark.parametrize(
    ("name", "captions", "percent"), [("clip-b32", 0, 51), ("clip-b16", 0, 50), ("siglip-b16-224", 4, 77)]
)
def test_what_patch_dropout_leaves_of_the_flops(name, captions, percent):
    """As docs/training.md says, of half of the patches."""
    sizes = preset(name)
    total = sizes.image.grid**2
    part, whole = (
        flops.step(sizes, 1, captions, sizes.text.context, patches=count).model
        for count in (patches.kept(total, 0.5), total)
    )
    assert round(100 * part / whole) == percent


def test_patches_of_embedded_images_are_refused():
    message = r"config\.data\.cache is 'embeddings' and config\.data\.patch_dropout is 0\.5: .*patch_dropout to 0\.0"
    with pytest.raises(UserError, match=message):
        config(**{"data.cache": "embeddings", "data.crop_scale": (1.0, 1.0)})
    with pytest.raises(UserError, match=r"data\.patch_dropout is 1\.0; expected a number from 0 to less than 1"):
        config(**{"data.patch_dropout": 1.0})
