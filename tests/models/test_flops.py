"""Model FLOPs against a closed form, XLA's own count, and OpenCLIP's published profile."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from naturel_jax.devices import hardware
from naturel_jax.models import flops
from naturel_jax.models.presets import preset
from naturel_jax.models.transformer import Compute, TransformerConfig
from naturel_jax.models.two_tower import ImageConfig, Model, TextConfig, TwoTowerConfig


def sized(name: str, *, image: tuple[int, int], text: tuple[int, int], **fields: int) -> TwoTowerConfig:
    """The preset with towers of the given (width, depth), 8 x 8 images in four patches, and one head."""
    config = preset(name)

    def transformer(tower: ImageConfig | TextConfig, width: int, depth: int) -> TransformerConfig:
        return dataclasses.replace(tower.transformer, width=width, depth=depth, heads=1, mlp_dim=4 * width)

    return dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, size=8, patch=4, transformer=transformer(config.image, *image)),
        text=dataclasses.replace(config.text, transformer=transformer(config.text, *text)),
        **fields,
    )


# docs/model_profile.csv of OpenCLIP (commit 3b37473), in GFLOPs: fvcore's count of PyTorch models.
PROFILE = {
    **{"clip-b32": (8.82, 5.96), "clip-b16": (35.13, 5.96), "clip-l14": (162.03, 13.3), "laion-h14": (334.59, 47.09)},
    **{"siglip-b16-224": (35.42, 11.02), "siglip-l16-384": (383.85, 39.06), "siglip-so400m14-384": (670.35, 53.13)},
}


@pytest.mark.parametrize("name", PROFILE)
def test_counts_match_openclips_published_profile(name):
    config = preset(name)
    counted = flops.image_flops(config) / 1e9, flops.text_flops(config) / 1e9
    assert counted == pytest.approx(PROFILE[name], rel=2e-3)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_counts_match_xla_within_a_few_percent(family):
    """XLA also counts operations other than matrix products (biases, residuals, normalization, activations: a percent
    or two at this width), and counts a scanned block once at any depth, so this model has one block per tower."""
    config = sized(f"tiny-{family}", image=(512, 1), text=(512, 1), embed_dim=512)
    model = Model(config, Compute())
    images, captions = 3, 5
    pixels = jax.ShapeDtypeStruct((images, 8, 8, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((captions, config.text.context), jnp.int32)

    def total(params, pixels, tokens):
        return model.encode_image(params, pixels).sum() + model.encode_text(params, tokens).sum()

    def counted(function) -> float:
        return jax.jit(function).lower(model.shapes(), pixels, tokens).cost_analysis()["flops"]

    step = flops.step(config, images, captions)
    assert step.forward == pytest.approx(counted(total), rel=0.03)
    # Pixels need no gradient, so the patch embedding has one product less in the backward pass.
    gradient = jax.grad(total)
    assert step.model == pytest.approx(counted(gradient), rel=0.05)


@pytest.mark.parametrize("patches", [None, 2])
def test_step_with_frozen_blocks_matches_xla(patches):
    """One of two blocks of the image tower, and all of the text tower: XLA counts each scan of one block once."""
    config = sized("tiny-clip", image=(512, 2), text=(512, 1), embed_dim=512)
    images, captions, tokens = 3, 5, config.text.context
    rows = [jax.ShapeDtypeStruct((images, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((captions, tokens), jnp.int32)]
    rows += [jax.ShapeDtypeStruct((images, patches), jnp.int32)] if patches else []
    model = Model(config, Compute(frozen_image=1, frozen_text=1))

    def total(params, pixels, tokens, patches_IP=None):
        return model.encode_image(params, pixels, patches_IP).sum() + model.encode_text(params, tokens).sum()

    counted = jax.jit(jax.grad(total)).lower(model.shapes(), *rows).cost_analysis()["flops"]
    step = flops.step(config, images, captions, tokens, patches=patches, frozen=(1, 1))
    assert step.model == pytest.approx(counted, rel=0.03)
    whole = flops.step(config, images, captions, tokens, patches=patches)
    assert step.model < 0.6 * whole.model and step.forward == whole.forward


def test_what_freezing_leaves():
    """The percentages in docs/training.md."""
    config = preset("clip-b16")
    half = config.image.transformer.depth // 2
    frozen, whole = (flops.step(config, 1, 0, 0, frozen=(blocks, 0)).model for blocks in (half, 0))
    assert round(100 * frozen / whole) == 66


@pytest.mark.parametrize(("name", "kilobytes"), [("clip-b32", 77), ("clip-b16", 303), ("clip-l14", 526)])
def test_what_keeping_blocks_would_take(name, kilobytes):
    """As docs/training.md says: the positions of an image in bfloat16, and 151 KB of pixels."""
    image = preset(name).image
    assert round((image.grid**2 + 1) * image.transformer.width * 2 / 1e3) == kilobytes
    assert round(3 * image.size**2 / 1e3) == 151


def test_shorter_captions_cost_less_and_depth_is_linear():
    config = preset("clip-b32")
    assert flops.text_flops(config, 16) < flops.text_flops(config) * 16 / 77
    deep = dataclasses.replace(config.text.transformer, depth=24)
    assert flops.transformer_flops(deep, 77) == 2 * flops.transformer_flops(config.text.transformer, 77)


@pytest.mark.parametrize(
    ("device_kind", "dtype", "tera"),
    [
        *(("NVIDIA A100-SXM4-80GB", "bfloat16", 312), ("NVIDIA H100 80GB HBM3", "bfloat16", 989)),
        *(("NVIDIA H100 80GB HBM3", "float32", 495), ("NVIDIA L4", "bfloat16", 121), ("TPU v4", "bfloat16", 275)),
        *(("TPU v5 lite", "bfloat16", 197), ("TPU v5p", "bfloat16", 459), ("TPU v6 lite", "bfloat16", 918)),
    ],
)
def test_peaks_match_the_data_sheets(device_kind, dtype, tera):
    assert hardware.peak(device_kind, dtype) == tera * 1e12


def test_unknown_devices_and_dtypes_have_no_peak():
    assert hardware.peak("cpu", "float32") is None
    assert hardware.peak("TPU v4", "float32") is None
