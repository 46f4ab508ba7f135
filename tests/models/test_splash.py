"""Splash attention, interpreted: the plain attention in value and gradient, and where it is used."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from naturel_jax import config as c
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models import splash
from naturel_jax.models.presets import preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.training import memory
from naturel_jax.training.choices import make_model
from tests.helpers import tiny_config
from tests.helpers.losses import QUICK
from tfds_naturel.common.errors import UserError


def value_and_gradients(attend, inputs, dtype):
    """Gradients of a weighted sum of the result, with respect to queries, keys and values."""
    *inputs, weight = (x.astype(dtype) for x in inputs)

    def total(q, k, v):
        y = attend(q, k, v)
        return jnp.vdot(y.astype(jnp.float32), weight.astype(jnp.float32)), y

    function = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    (_, y), gradients = jax.jit(function, compiler_options=QUICK)(*inputs)
    return [np.asarray(x, np.float32) for x in (y, *gradients)]


# 384 pixels in patches of 16, which are padded to 640; 512 pixels with an odd number of heads; the heads of So400m.
@pytest.mark.parametrize(
    ("length", "heads", "width", "dtype", "tolerance"),
    [(576, 2, 64, "float32", 1e-5), (1024, 1, 64, "float32", 1e-5), (729, 2, 72, "bfloat16", 1e-2)],
)
def test_attention_is_the_plain_one_in_float32(length, heads, width, dtype, tolerance):
    mesh = make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])

    def kernel(q, k, v):
        return splash.splash_attention(q, k, v, mesh, interpret=True)

    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.standard_normal((4, length, heads, width)), dtype) for _ in range(4)]
    found = value_and_gradients(kernel, inputs, dtype)
    expected = value_and_gradients(jax.nn.dot_product_attention, inputs, "float32")
    for ours, theirs in zip(found, expected, strict=True):
        assert np.linalg.norm(ours - theirs) < tolerance * np.linalg.norm(theirs)


@pytest.mark.parametrize(("remat", "kernels"), [("dots", 3), ("attention", 2)])
def test_kernel_is_not_computed_again_if_attention_is_kept(remat, kernels):
    """Forward and backward; without its result and the sums of its rows, forward once more."""
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    model = long_sequences(mesh)
    model = dataclasses.replace(model, compute=dataclasses.replace(model.compute, remat=remat))
    pixels = jax.ShapeDtypeStruct((1, 288, 288, 3), jnp.float32)

    def total(params, pixels):
        return jnp.sum(model.encode_image(params, pixels))

    traced = jax.make_jaxpr(jax.grad(total))(model.shapes(), pixels)
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    assert str(used).count("pallas_call[") == kernels


def long_sequences(mesh) -> Model:
    """The tiny SigLIP with 576 patches an image."""
    config = preset("tiny-siglip")
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, size=288))
    return Model(config, Compute("bfloat16", attention="splash", mesh=mesh))


def test_only_long_sequences_are_given_to_the_kernel():
    model = long_sequences(make_mesh({"data": 1}, jax.devices()[:1]))
    text = model.config.text
    pixels = jax.ShapeDtypeStruct((2, 288, 288, 3), np.float32)
    tokens = jax.ShapeDtypeStruct((2, text.context), np.int32)
    of_image = str(jax.make_jaxpr(model.encode_image)(model.shapes(), pixels))
    of_text = str(jax.make_jaxpr(model.encode_text)(model.shapes(), tokens))
    assert "pallas_call" in of_image and "pallas_call" not in of_text


def test_estimate_of_memory_has_no_logits():
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    model = long_sequences(mesh)
    plain = dataclasses.replace(model, compute=Compute("bfloat16"))
    splash_bytes, plain_bytes = (memory.activations(one, 3, 3, 16) for one in (model, plain))
    blocks = model.config.image.transformer
    logits = 3 * blocks.depth * blocks.heads * 576**2 * 2  # bytes in bfloat16
    assert splash_bytes < plain_bytes - logits


def test_splash_without_a_tpu_is_refused():
    raw = tiny_config.get_config()
    raw.compute.attention = "splash"
    message = "config.compute.attention is 'splash' and the devices are of the platform 'cpu'; it needs TPUs"
    with pytest.raises(UserError, match=re.escape(message)):
        make_model(c.load(raw), preset("tiny-siglip"), make_mesh({"data": -1}))


def test_splash_without_a_mesh_is_a_mistake():
    with pytest.raises(ValueError, match="needs a mesh"):
        Compute(attention="splash")
