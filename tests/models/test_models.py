"""The towers against transformers' and OpenCLIP's PyTorch models, in float32 with random weights: features, cosines,
logits and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from naturel_jax.models.families import family_of
from naturel_jax.models.positions import resize_positions
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import REMAT_POLICIES, Compute
from naturel_jax.models.two_tower import Model, TwoTowerConfig, config_from_dict
from naturel_jax.weights import hf, openclip, tables, verify
from tests.helpers.losses import QUICK
from tests.helpers.model_files import (
    hf_model,
    inputs,
    openclip_model,
    random_params,
    reduced,
    torch_inputs,
    with_blocks,
)
from tfds_naturel.common.errors import UserError

# Together, these cover every activation, head width, MLP ratio, border and embedding width in the presets.
ODD_SHAPES = ("clip-l14-336", "siglip-so400m14-384", "siglip2-g16-256", "siglip2-b32-256")
LARGEST = tuple(pytest.param(name, marks=pytest.mark.proof) for name in ("laion-h14", "laion-g14"))


def odd_tiny(name: str) -> TwoTowerConfig:
    """A tiny preset with a border narrower than a patch, and an MLP width that is not a multiple of the model width, as
    in So400m/14 at 384."""
    config = preset(name)
    tower = dataclasses.replace(config.image.transformer, mlp_dim=478, depth=2)
    return dataclasses.replace(config, image=dataclasses.replace(config.image, size=53, transformer=tower))


def logits(model: Model, params: dict, pixels: jax.Array, tokens: jax.Array):
    zimg_ID, ztxt_UD = model.encode_image(params, pixels), model.encode_text(params, tokens)
    return jnp.exp(params["logit_scale"]) * zimg_ID @ ztxt_UD.T + params.get("logit_bias", 0.0), (zimg_ID, ztxt_UD)


def torch_logits(peer: torch.nn.Module, pixels: np.ndarray, tokens: np.ndarray):
    """Logits and unit embeddings of a transformers or OpenCLIP model, with gradients enabled."""
    ids = torch.from_numpy(tokens).long()
    if hasattr(peer, "encode_image"):
        images, _ = torch_inputs(pixels, tokens)
        zimg, ztxt = peer.encode_image(images, normalize=True), peer.encode_text(ids, normalize=True)
        bias = peer.logit_bias if peer.logit_bias is not None else 0.0
        return peer.logit_scale.exp() * zimg @ ztxt.T + bias, (zimg, ztxt)
    out = peer(input_ids=ids, **verify.transformers_images(pixels))
    return out.logits_per_image, (out.image_embeds, out.text_embeds)


def relative(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def check_parity(config: TwoTowerConfig, peer: torch.nn.Module, table: list, params: dict) -> None:
    """Features, logits and gradients within 1e-5 of ``peer``, cosines within 1e-6."""
    pixels, tokens = inputs(config)
    their_out, their_embeddings = torch_logits(peer, pixels, tokens)
    # Weights have the signs of the logits, to avoid cancellation in the scale's gradient, a sum over logits.
    weight = np.random.default_rng(2).uniform(0.5, 2.0, their_out.shape).astype(np.float32) * np.sign(
        their_out.detach().numpy()
    )
    (their_out * torch.from_numpy(weight)).sum().backward()

    def loss(params):
        out, embeddings = logits(Model(config), params, pixels, tokens)
        return (out * weight).sum(), (out, embeddings)

    options = QUICK if config.image.transformer.width <= 128 else None  # compiling a tiny one takes longer than it runs
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
    (_, (out, embeddings)), gradients = step(params)
    for ours, theirs in zip(embeddings, their_embeddings, strict=True):
        assert relative(ours, theirs.detach()) < 1e-5
    cosines, their_cosines = (z[0] @ z[1].T for z in (embeddings, [z.detach().numpy() for z in their_embeddings]))
    np.testing.assert_allclose(cosines, their_cosines, atol=1e-6)
    assert relative(out, their_out.detach()) < 1e-5
    their_gradients = {key: p.grad.numpy() for key, p in peer.named_parameters()}
    our_gradients = tables.write(table, gradients)
    assert our_gradients.keys() == their_gradients.keys()
    # Key biases do not affect the softmax, so their gradients are rounding noise; a floor relative to the norm of the
    # whole gradient avoids dividing by it.
    floor = 1e-3 * np.sqrt(sum(np.square(g).sum() for g in their_gradients.values()))
    errors = {
        key: np.linalg.norm(our_gradients[key].ravel() - g.ravel()) / max(np.linalg.norm(g), floor)
        for key, g in their_gradients.items()
    }
    assert max(errors.values()) < 1e-5, max(errors, key=errors.get)


def check_transformers(config: TwoTowerConfig) -> None:
    params = random_params(config)
    check_parity(config, hf_model(config, params), hf.TABLES[family_of(config).name], params)


def check_openclip(config: TwoTowerConfig) -> None:
    params = random_params(config)
    check_parity(config, openclip_model(config, params), openclip.TABLES[family_of(config).name], params)


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip", "tiny-naflex"])
def test_parity_with_transformers(name):
    check_transformers(odd_tiny(name))


def test_parity_with_openclip():
    check_openclip(with_blocks(odd_tiny("tiny-clip"), activation="gelu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", (*ODD_SHAPES, *LARGEST))  # OpenCLIP, below, has the largest, too
def test_parity_with_transformers_at_unusual_shapes(name):
    check_transformers(reduced(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laion-g14", "siglip2-so400m16-256"])
def test_parity_with_openclip_at_unusual_shapes(name):
    check_openclip(reduced(name))


@pytest.mark.slow
def test_parity_with_openclips_siglip_with_exact_gelu():
    check_openclip(with_blocks(reduced("siglip-b16-224"), activation="gelu"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-b32", "siglip-b16-224"])
def test_parity_with_transformers_at_full_size(name):
    check_transformers(preset(name))


@pytest.mark.proof
def test_parity_with_openclip_at_full_size():
    check_openclip(preset("laion-b16"))


OPENCLIP_NAMES = {
    **{"clip-b16": "ViT-B-16-quickgelu", "clip-l14-336": "ViT-L-14-336-quickgelu", "negclip-b32": "ViT-B-32-quickgelu"},
    **{"clip-b32": "ViT-B-32-quickgelu", "clip-l14": "ViT-L-14-quickgelu"},
    **{"laion-b32": "ViT-B-32", "laion-b16": "ViT-B-16", "laion-l14": "ViT-L-14", "laion-h14": "ViT-H-14"},
    **{"laion-g14": "ViT-g-14", "siglip-b16-224": "ViT-B-16-SigLIP", "siglip-b16-256-i18n": "ViT-B-16-SigLIP-i18n-256"},
    **{"siglip-b16-512": "ViT-B-16-SigLIP-512", "siglip-l16-384": "ViT-L-16-SigLIP-384"},
    **{"siglip-so400m14-224": "ViT-SO400M-14-SigLIP", "siglip-so400m14-384": "ViT-SO400M-14-SigLIP-384"},
    **{"siglip2-b32-256": "ViT-B-32-SigLIP2-256", "siglip2-l16-512": "ViT-L-16-SigLIP2-512"},
    **{"siglip2-so400m16-384": "ViT-SO400M-16-SigLIP2-384", "siglip2-g16-384": "ViT-gopt-16-SigLIP2-384"},
}


@pytest.mark.parametrize(("name", "theirs"), OPENCLIP_NAMES.items())
def test_presets_match_openclips_configs(name, theirs):
    """Published configs of the same models. OpenCLIP's SigLIP v1 configs use exact GELU, the original its tanh
    approximation."""
    config = openclip.read_config(open_clip.get_model_config(theirs))
    if name.startswith("siglip-"):
        config = with_blocks(config, activation="gelu_tanh")
    assert config == preset(name)


def test_unknown_preset_error_lists_the_presets():
    with pytest.raises(UserError, match=r"unknown preset 'clip-b31'.*clip-b32"):
        preset("clip-b31")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_exported(name):
    config = preset(name)
    fields = hf.write_config(config, "float32", {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1})
    assert hf.read_config(fields) == config


def test_remat_does_not_change_gradients():
    config = preset("tiny-siglip")
    params = random_params(config)
    _, tokens = inputs(config)

    def gradient(policy):
        model = Model(config, Compute(remat=policy))
        total = jax.grad(lambda text: model.encode_text({**params, "text": text}, tokens)[:, 0].sum())
        return jax.jit(total, compiler_options=QUICK)(params["text"])

    kept = gradient("none")
    for policy in REMAT_POLICIES.keys() - {"none"}:
        for ours, theirs in zip(jax.tree.leaves(gradient(policy)), jax.tree.leaves(kept), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_bfloat16_compute_returns_float32_embeddings_close_to_float32():
    config = preset("tiny-clip")
    params = random_params(config)
    _, tokens = inputs(config)
    exact, half = (Model(config, Compute(dtype=dtype)).encode_text(params, tokens) for dtype in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32
    assert 1e-5 < relative(half, exact) < 2e-2


def test_gradient_of_a_frequent_token_is_added_up_in_float32():
    """That of padding, 20,000 copies here; sums in bfloat16 stop growing at 256 times what is added."""
    config = preset("tiny-siglip")
    params = random_params(config)
    tokens = np.zeros((1250, config.text.context), np.int32)

    def gradient(dtype):
        model = Model(config, Compute(dtype=dtype, remat="full"))
        total = jax.grad(lambda text: model.encode_text({**params, "text": text}, tokens)[:, 0].sum())
        return jax.jit(total, compiler_options=QUICK)(params["text"])["embed"][0]

    assert relative(gradient("bfloat16"), gradient("float32")) < 0.05


def test_truncating_after_the_end_token_does_not_change_the_embedding():
    config = preset("tiny-clip")
    params = random_params(config)
    _, tokens = inputs(config)
    model = Model(config)
    np.testing.assert_allclose(
        model.encode_text(params, tokens[:, :8]), model.encode_text(params, tokens), rtol=1e-5, atol=1e-6
    )


def test_siglip_rejects_text_without_padding():
    config = preset("tiny-siglip")
    _, tokens = inputs(config)
    with pytest.raises(ValueError, match=f"takes exactly {config.text.context} per text, since it attends to padding"):
        Model(config).encode_text(random_params(config), tokens[:, :8])


def test_images_of_another_size_are_rejected():
    config = preset("tiny-clip")
    with pytest.raises(ValueError, match=r"this tower takes \[I, 48, 48, 3\]"):
        Model(config).encode_image(random_params(config), np.zeros((1, 56, 56, 3), np.float32))


@pytest.mark.parametrize(("name", "mode"), [("tiny-clip", "bicubic"), ("tiny-siglip", "bilinear")])
@pytest.mark.parametrize("size", [72, 32])
def test_resampled_positions_match_torch_interpolation(name, mode, size):
    """OpenCLIP resamples CLIP's positions with antialiased bicubic interpolation, Siglip2Model with antialiased
    bilinear interpolation."""
    config = preset(name)
    params = random_params(config)
    new_config, new_params = resize_positions(config, params, size)
    grid, new_grid = config.image.grid, size // config.image.patch
    extra = int(config.image.pool == "cls")
    old = torch.from_numpy(np.array(params["image"]["position"]))
    square = old[extra:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, (new_grid, new_grid), mode=mode, antialias=True).permute(0, 2, 3, 1)
    expected = torch.cat([old[:extra], resized.reshape(new_grid**2, -1)])
    np.testing.assert_allclose(new_params["image"]["position"], expected, atol=1e-6)
    assert Model(new_config).encode_image(new_params, np.zeros((1, size, size, 3), np.float32)).shape == (1, 128)


@pytest.mark.parametrize("path", ["init_scale", "init_bias", "max_scale", "image/pre_norm", "text/causal"])
def test_config_with_a_value_of_another_kind_is_refused(path):
    *tower, field = path.split("/")
    small = {"init_scale": [0, -1.0], "max_scale": [0.5, 0, -1.0]}.get(path, [])
    for wrong in ({"a": 1}, "1", float("nan"), *small):
        fields = dataclasses.asdict(preset("tiny-siglip"))
        (fields[tower[0]] if tower else fields)[field] = wrong
        with pytest.raises(ValueError, match=field):
            config_from_dict(fields)
