"""big_vision's two-tower ``.npz`` checkpoints (SigLIP, SigLIP 2 with fixed resolution): flax kernels, blocks stacked
or separate."""

import dataclasses
from collections.abc import Mapping

from naturel_jax.models.families import FAMILIES, family_of
from naturel_jax.models.presets import PRESETS
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights.tables import (
    CONV_FLAX,
    FLAT,
    POSITION,
    QKV_BIAS_FLAX,
    QKV_FLAX,
    SAME,
    Rule,
    Shape,
    reshaped,
    rule,
    under,
    with_bias,
)
from tfds_naturel.common.errors import UserError

_FAMILY = FAMILIES["siglip"]  # the only two-tower model of big_vision with published checkpoints

_ATTENTION = "MultiHeadDotProductAttention_0"


_COMMON = [
    *with_bias(
        "attn/qkv/kernel",
        " ".join(f"{_ATTENTION}/{name}/kernel" for name in ("query", "key", "value")),
        QKV_FLAX,
        QKV_BIAS_FLAX,
    ),
    *with_bias("attn/out/kernel", f"{_ATTENTION}/out/kernel", SAME),
    *with_bias("mlp/up/kernel", "MlpBlock_0/Dense_0/kernel", SAME),
    *with_bias("mlp/down/kernel", "MlpBlock_0/Dense_1/kernel", SAME),
]
_BLOCK = [
    *_COMMON,
    *with_bias("norm1/scale", "LayerNorm_0/scale", SAME),
    *with_bias("norm2/scale", "LayerNorm_1/scale", SAME),
]
_HEAD = [
    *_COMMON,
    rule("probe", "probe", reshaped(1, 1, -1)),
    *with_bias("norm/scale", "LayerNorm_0/scale", SAME),
]


def table(image_scan: bool, text_scan: bool) -> list[Rule]:
    """The table; ``image_scan`` and ``text_scan``: whether that tower's blocks are stacked, as big_vision's ``scan``
    leaves them."""
    image_block, text_block = ("encoderblock/" if scan else "encoderblock_{}/" for scan in (image_scan, text_scan))
    return [
        *under("image/transformer/blocks/", f"img/Transformer/{image_block}", _BLOCK),
        *under("text/transformer/blocks/", f"txt/Encoder_0/{text_block}", _BLOCK),
        *under("image/head/", "img/MAPHead_0/", _HEAD),
        *with_bias("image/patch/kernel", "img/embedding/kernel", CONV_FLAX),
        rule("image/position", "img/pos_embedding", POSITION),
        *with_bias("image/post_norm/scale", "img/Transformer/encoder_norm/scale", SAME),
        rule("text/embed", "txt/Embed_0/embedding", SAME),
        rule("text/position", "txt/pos_embedding", POSITION),
        *with_bias("text/post_norm/scale", "txt/Encoder_0/encoder_norm/scale", SAME),
        *with_bias("text/projection/kernel", "txt/head/kernel", SAME),
        rule("logit_scale", "t", FLAT),
        rule("logit_bias", "b", FLAT),
    ]


def names(present: Mapping[str, Shape]) -> dict[str, str]:
    """Parameter name -> name in the file. Published files prefix them with ``params/``; a training checkpoint's
    optimizer state is left out."""
    prefixed = {key.removeprefix("params/"): key for key in present if key.startswith("params/")}
    return prefixed or {key: key for key in present}


def read_table(shapes: Mapping[str, Shape]) -> list[Rule]:
    """The table for the layout of this file."""
    stacked = [
        any(key.startswith(f"{tower}/encoderblock/") for key in shapes)
        for tower in ("img/Transformer", "txt/Encoder_0")
    ]
    return table(*stacked)


_NEEDED = (
    "img/embedding/kernel",
    "img/pos_embedding",
    "img/MAPHead_0/probe",
    "txt/pos_embedding",
    "txt/Embed_0/embedding",
    "b",
)


def read_shapes(shapes: Mapping[str, Shape]) -> TwoTowerConfig:
    """The config of a checkpoint from its shapes. Raises UserError for a model other than a two-tower SigLIP.

    The image size is that of the preset with the same shapes, else grid times patch (a file does not say whether
    the images have a border narrower than a patch: So400m/14 at 384).
    """
    if absent := [key for key in _NEEDED if key not in shapes]:
        raise UserError(f"not a SigLIP checkpoint of big_vision: {', '.join(absent)} missing")
    patch = shapes["img/embedding/kernel"][0]
    grid = round(shapes["img/pos_embedding"][1] ** 0.5)
    config = _FAMILY.config(
        size=grid * patch,
        patch=patch,
        image=_transformer(shapes, "img/Transformer"),
        text=_transformer(shapes, "txt/Encoder_0"),
        vocab=shapes["txt/Embed_0/embedding"][0],
        context=shapes["txt/pos_embedding"][1],
    )
    sizes = {preset.image.size for preset in PRESETS.values() if preset.image.grid == grid}
    resized = (dataclasses.replace(config, image=dataclasses.replace(config.image, size=size)) for size in sizes)
    return next((known for known in resized if known in PRESETS.values()), config)


def _transformer(shapes: Mapping[str, Shape], prefix: str) -> TransformerConfig:
    query, dense = f"{_ATTENTION}/query/kernel", "MlpBlock_0/Dense_0/bias"
    if (stacked := f"{prefix}/encoderblock/{query}") in shapes:
        depth, width, heads, _ = shapes[stacked]
        return _FAMILY.tower(width, depth, heads, shapes[f"{prefix}/encoderblock/{dense}"][1])
    first = f"{prefix}/encoderblock_0"
    if f"{first}/{query}" not in shapes:
        raise UserError(f"not a SigLIP checkpoint of big_vision: {first}/... missing")
    width, heads, _ = shapes[f"{first}/{query}"]
    depth = sum(key.startswith(f"{prefix}/encoderblock_") and key.endswith("/query/kernel") for key in shapes)
    return _FAMILY.tower(width, depth, heads, shapes[f"{first}/{dense}"][0])


def check_config(config: TwoTowerConfig) -> None:
    """Raises UserError unless big_vision's two-tower model can run ``config``."""
    towers = (config.image.transformer, config.text.transformer)
    same = all((tower.activation, tower.eps) == (_FAMILY.activation, _FAMILY.eps) for tower in towers)
    if family_of(config) is not _FAMILY or config.init_bias is None or not same:
        raise UserError(
            "big_vision's two-tower model is SigLIP with the tanh form of GELU, eps 1e-6 and a logit bias; this is a "
            "different model: export to run, openclip or hf instead"
        )
