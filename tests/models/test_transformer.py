"""Attention through cuDNN, with XLA's in its place: padding changes nothing, and what cuDNN cannot do is refused."""

import dataclasses
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.cudnn import padded_attention
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.training.choices import make_model
from tests.helpers import tiny_config
from tests.helpers.losses import QUICK
from tests.helpers.model_files import inputs, random_params
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLAIN = jax.nn.dot_product_attention


def dense_attention(q, k, v, causal: bool) -> np.ndarray:
    """softmax(q k^T / sqrt(K)) v in float64, a head and a sequence at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    if causal:
        logits[..., np.triu(np.ones(logits.shape[-2:], bool), 1)] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 50, 77])
def test_padded_attention_is_the_plain_one(length, causal):
    rng = np.random.default_rng(length)
    q, k, v, dy = (rng.standard_normal((2, length, 3, 8), np.float32) for _ in range(4))

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(attend, *qkv):
        y, pullback = jax.vjp(attend, *qkv)
        return y, *pullback(dy)

    padded = value_and_gradients(functools.partial(padded_attention, causal=causal, implementation="xla"), q, k, v)
    dense = value_and_gradients(functools.partial(PLAIN, is_causal=causal, implementation="xla"), q, k, v)
    np.testing.assert_allclose(padded[0], dense_attention(q, k, v, causal), rtol=0, atol=1e-6)
    for ours, theirs in zip(padded, dense, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@jax.custom_vjp
def careless(kv, length):
    """``kv``, whose gradient is not a number in the rows that are left out of the attention."""
    return kv


def careless_gradient(saved, dkv):
    kept = (jnp.arange(saved[0]) < saved[1])[None, :, None, None]
    return jnp.where(kept, dkv, jnp.nan), np.zeros((), jax.dtypes.float0)


careless.defvjp(lambda kv, length: (kv, (kv.shape[1], length)), careless_gradient)


def in_cudnns_place(q, k, v, *, is_causal=False, key_value_seq_lengths=None, implementation=None):
    """XLA's attention, with what JAX asks of sequences for cuDNN; gradients are left undefined where they may be."""
    if implementation == "cudnn":
        assert q.shape[1] % 2 == 0 == k.shape[1] % 2
    length = k.shape[1] if key_value_seq_lengths is None else key_value_seq_lengths[0]
    k, v = careless(k, length), careless(v, length)
    return PLAIN(q, k, v, is_causal=is_causal, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")


def value_and_gradient(name: str, compute: Compute) -> list:
    """Embeddings by both towers and a gradient of all parameters, of a preset with 17 or 16 positions in the image
    tower and 9 or 16 in the text tower."""
    config = preset(name)
    params, (pixels, tokens) = random_params(config), inputs(config)
    tokens = tokens[:, :9] if config.text.causal else tokens
    weight = np.random.default_rng(0).standard_normal(config.embed_dim, np.float32)
    model = Model(config, compute)

    def total(params):
        z = model.encode_image(params, pixels), model.encode_text(params, tokens)
        return sum(jnp.sum(x @ weight) for x in z), z

    return jax.tree.leaves(jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)(params))


@functools.cache
def plain(name: str) -> list:
    return value_and_gradient(name, Compute())


def assert_close(found: list, expected: list, tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_towers_with_padded_attention_are_the_plain_ones(name, monkeypatch):
    expected = plain(name)
    monkeypatch.setattr(jax.nn, "dot_product_attention", in_cudnns_place)
    assert_close(value_and_gradient(name, Compute(attention="cudnn")), expected, 1e-6)


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_towers_of_tpus_are_those_of_cpus(name):
    """Gradients are sums in another order."""
    assert_close(value_and_gradient(name, Compute(flat=False)), plain(name), 1e-5)


def test_unrolled_towers_are_the_looped_ones():
    assert_close(value_and_gradient("tiny-clip", Compute(unroll=True)), plain("tiny-clip"), 1e-6)


def stand_in(platform: str) -> types.SimpleNamespace:
    """What ``make_model`` reads of a mesh of one device."""
    device = types.SimpleNamespace(platform=platform)
    return types.SimpleNamespace(devices=np.array([device]), shape={"fsdp": 1})


def test_blocks_are_unrolled_if_asked():
    config, sizes = c.load(tiny_config.get_config()), preset("tiny-clip")
    asked = dataclasses.replace(config, compute=dataclasses.replace(config.compute, unroll=True))
    unrolled = [make_model(one, sizes, stand_in("cpu")).compute.unroll for one in (config, asked)]
    assert unrolled == [False, True]


def test_a_compiler_may_not_keep_what_unrolled_blocks_compute_again():
    """Outside a loop it finds that both computations are one, unless a barrier is between them."""
    config = preset("tiny-clip")
    pixels, _ = inputs(config)

    def program(unroll):
        def total(params):
            return jnp.sum(Model(config, Compute(remat="full", unroll=unroll)).encode_image(params, pixels))

        return jax.jit(jax.grad(total)).lower(random_params(config)).as_text()

    assert {unroll: "optimization_barrier" in program(unroll) for unroll in (True, False)} == {True: True, False: False}


def test_products_are_flat_except_on_tpus():
    config, sizes = c.load(tiny_config.get_config()), preset("tiny-clip")
    flat = {name: make_model(config, sizes, stand_in(name)).compute.flat for name in ("cpu", "gpu", "tpu")}
    assert flat == {"cpu": True, "gpu": True, "tpu": False}


# ---- Frozen blocks ---------------------------------------------------------------------------------------------------


def test_frozen_blocks_change_no_other_gradient():
    """Two of four blocks; what is below has no gradient either. The others are recomputed."""
    config = preset("tiny-siglip")
    params = random_params(config)
    pixels, _ = inputs(config)
    weight = np.random.default_rng(0).standard_normal(config.embed_dim, np.float32)

    def value_and_gradient(compute):
        def total(tower):
            return jnp.sum(Model(config, compute).encode_image({**params, "image": tower}, pixels) @ weight)

        return jax.jit(jax.value_and_grad(total), compiler_options=QUICK)(params["image"])

    value, gradient = value_and_gradient(Compute(remat="full", frozen_image=2))
    expected, whole = value_and_gradient(Compute())
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(whole))
    for path, true in jax.tree_util.tree_leaves_with_path(whole):
        found = functools.reduce(lambda tree, key: tree[key.key], path, gradient)
        if path[0].key == "transformer":
            assert not np.any(found[:2]) and np.all(np.any(true[:2], axis=tuple(range(1, true.ndim))))
            found, true = found[2:], true[2:]
        elif path[0].key in ("patch", "position"):
            true = np.zeros_like(true)
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-6 * largest, err_msg=str(path))


# ---- What is refused -------------------------------------------------------------------------------------------------


def with_cudnn(**fields) -> c.Config:
    raw = tiny_config.get_config()
    raw.compute.update({"attention": "cudnn", **fields})
    return c.load(raw)


def test_cudnn_in_float32_is_refused():
    with pytest.raises(UserError, match=r"attention is 'cudnn' and config\.compute\.dtype is 'float32', .* set config"):
        with_cudnn(dtype="float32")


def test_cudnn_without_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"attention is 'cudnn' and the devices .* 'cpu'; it needs NVIDIA"):
        make_model(with_cudnn(), preset("tiny-clip"), make_mesh({"data": -1}))


def test_cudnns_results_cannot_be_kept():
    with pytest.raises(UserError, match=r"remat is 'attention' and config\.compute\.attention is 'cudnn'.* 'dots'"):
        make_model(with_cudnn(remat="attention"), preset("tiny-clip"), stand_in("gpu"))


def test_heads_that_cudnn_does_not_take_are_refused():
    """128 / 32: ``check_is_flash_attention`` in jax/_src/cudnn/fused_attention_stablehlo.py asks for multiples of 8."""
    sizes = preset("tiny-clip")
    tower = dataclasses.replace(sizes.text.transformer, heads=32)
    sizes = dataclasses.replace(sizes, text=dataclasses.replace(sizes.text, transformer=tower))
    with pytest.raises(UserError, match="is 'cudnn' and there are heads of width 4 in the text tower; expected a mult"):
        make_model(with_cudnn(), sizes, stand_in("gpu"))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_heads_that_cudnn_takes(name):
    gpus = stand_in("gpu")
    assert make_model(with_cudnn(), preset(name), gpus).compute == Compute("bfloat16", "none", "cudnn")


# ---- Programs --------------------------------------------------------------------------------------------------------


def gradient_program(model: Model) -> str:
    """What is compiled for the gradient of both towers."""
    pixels, tokens = inputs(model.config)

    def total(params):
        return jnp.sum(model.encode_image(params, pixels)) + jnp.sum(model.encode_text(params, tokens))

    return jax.jit(jax.grad(total)).lower(model.shapes()).as_text()


@pytest.mark.parametrize(("name", "attentions"), [("tiny-clip", 2), ("tiny-siglip", 3)])
def test_products_with_float32_results_are_those_of_attention_logits(name, attentions):
    """In bfloat16: the logits of both towers and of SigLIP's pooling, and in the backward pass two of their factors.
    Their factors are rounded to bfloat16 too."""
    text = gradient_program(Model(preset(name), Compute("bfloat16")))
    products = re.findall(r"stablehlo\.dot_general .* -> tensor<[\dx]*x(\w+)>", text)
    assert set(products) == {"bf16", "f32"} and products.count("f32") == 3 * attentions
    rounded = "lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32"
    assert len(re.findall(rf"stablehlo\.dot_general .*{rounded}.* -> tensor<[\dx]*xf32>", text)) == 3 * attentions


@pytest.mark.parametrize("flat", [True, False])
def test_loops_over_blocks_hold_kernels_in_the_dtype_of_the_activations(flat):
    """Kernels that they read, and gradients that they stack. In loops, kernels of all blocks are in no other."""
    model = Model(preset("tiny-siglip"), Compute("bfloat16", flat=flat))
    blocks = [model.shapes()[tower]["transformer"]["blocks"] for tower in ("image", "text")]
    kernels = {"x".join(map(str, x.shape)) for x in jax.tree.leaves(blocks) if x.ndim > 2}
    carried = re.findall(r"stablehlo\.while\(.*?\) : (.*)", gradient_program(model))
    found = {(size, kind) for types in carried for size, kind in re.findall(r"tensor<([\dx]+)x(\w+)>", types)}
    assert {kernel for kernel, _ in found} >= kernels
    assert {kind for size, kind in found if size in kernels} == {"bf16"}
