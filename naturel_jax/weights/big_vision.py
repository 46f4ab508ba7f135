"""big_vision's two-tower ``.npz`` checkpoints (SigLIP, SigLIP 2 with fixed resolution): flax kernels, blocks stacked
or one by one."""

from collections.abc import Mapping

from naturel_jax.models import presets
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
)

_ATTENTION = "MultiHeadDotProductAttention_0"


def _attention(ours: str) -> tuple[Rule, ...]:
    def keys(what: str) -> str:
        return " ".join(f"{_ATTENTION}/{name}/{what}" for name in ("query", "key", "value"))

    return (
        rule(f"{ours}/qkv/kernel", keys("kernel"), QKV_FLAX),
        rule(f"{ours}/qkv/bias", keys("bias"), QKV_BIAS_FLAX),
        rule(f"{ours}/out/kernel", f"{_ATTENTION}/out/kernel", SAME),
        rule(f"{ours}/out/bias", f"{_ATTENTION}/out/bias", SAME),
    )


_MLP = (
    rule("mlp/up/kernel", "MlpBlock_0/Dense_0/kernel", SAME),
    rule("mlp/up/bias", "MlpBlock_0/Dense_0/bias", SAME),
    rule("mlp/down/kernel", "MlpBlock_0/Dense_1/kernel", SAME),
    rule("mlp/down/bias", "MlpBlock_0/Dense_1/bias", SAME),
)
_BLOCK = (
    *_attention("attn"),
    *_MLP,
    rule("norm1/scale", "LayerNorm_0/scale", SAME),
    rule("norm1/bias", "LayerNorm_0/bias", SAME),
    rule("norm2/scale", "LayerNorm_1/scale", SAME),
    rule("norm2/bias", "LayerNorm_1/bias", SAME),
)
_HEAD = (
    *_attention("attn"),
    *_MLP,
    rule("probe", "probe", reshaped(1, 1, -1)),
    rule("norm/scale", "LayerNorm_0/scale", SAME),
    rule("norm/bias", "LayerNorm_0/bias", SAME),
)


def table(image_scan: bool, text_scan: bool) -> list[Rule]:
    """The table; ``image_scan`` and ``text_scan`` where that tower's blocks are stacked (trained with big_vision's
    ``scan``)."""
    image_block, text_block = ("encoderblock/" if scan else "encoderblock_{}/" for scan in (image_scan, text_scan))
    return [
        *under("image/transformer/blocks/", f"img/Transformer/{image_block}", _BLOCK),
        *under("text/transformer/blocks/", f"txt/Encoder_0/{text_block}", _BLOCK),
        *under("image/head/", "img/MAPHead_0/", _HEAD),
        rule("image/patch/kernel", "img/embedding/kernel", CONV_FLAX),
        rule("image/patch/bias", "img/embedding/bias", SAME),
        rule("image/position", "img/pos_embedding", POSITION),
        rule("image/post_norm/scale", "img/Transformer/encoder_norm/scale", SAME),
        rule("image/post_norm/bias", "img/Transformer/encoder_norm/bias", SAME),
        rule("text/embed", "txt/Embed_0/embedding", SAME),
        rule("text/position", "txt/pos_embedding", POSITION),
        rule("text/post_norm/scale", "txt/Encoder_0/encoder_norm/scale", SAME),
        rule("text/post_norm/bias", "txt/Encoder_0/encoder_norm/bias", SAME),
        rule("text/projection/kernel", "txt/head/kernel", SAME),
        rule("text/projection/bias", "txt/head/bias", SAME),
        rule("logit_scale", "t", FLAT),
        rule("logit_bias", "b", FLAT),
    ]


def names(found: Mapping[str, Shape]) -> dict[str, str]:
    """Parameter name -> name in the file. Published files have ``params/`` before them; a training checkpoint's
    optimizer state is left out."""
    prefixed = {key.removeprefix("params/"): key for key in found if key.startswith("params/")}
    return prefixed or {key: key for key in found}


def read_table(shapes: Mapping[str, Shape]) -> list[Rule]:
    """The table for the layout of this file."""
    stacked = [
        any(key.startswith(f"{tower}/encoderblock/") for key in shapes)
        for tower in ("img/Transformer", "txt/Encoder_0")
    ]
    return table(*stacked)


def read_shapes(shapes: Mapping[str, Shape]) -> TwoTowerConfig:
    """The config of a checkpoint from its shapes. Raises ValueError for another model than a two-tower SigLIP.

    The picture's size is the preset's of the same shapes, else patches times patch (a file does not say by how much
    less than a patch it is larger: So400m/14 at 384).
    """
    needed = (
        "img/embedding/kernel",
        "img/pos_embedding",
        "img/MAPHead_0/probe",
        "txt/pos_embedding",
        "txt/Embed_0/embedding",
        "b",
    )
    if absent := [key for key in needed if key not in shapes]:
        raise ValueError(f"not a SigLIP checkpoint of big_vision: {', '.join(absent)} missing")

    def transformer(prefix: str):
        key = f"{prefix}/encoderblock/{_ATTENTION}/query/kernel"
        if key in shapes:
            depth, width, heads, _ = shapes[key]
            return presets.tower(
                width, depth, heads, shapes[f"{prefix}/encoderblock/MlpBlock_0/Dense_0/bias"][1], **presets.SIGLIP_TOWER
            )
        first = f"{prefix}/encoderblock_0"
        if f"{first}/{_ATTENTION}/query/kernel" not in shapes:
            raise ValueError(f"not a SigLIP checkpoint of big_vision: {first}/... missing")
        width, heads, _ = shapes[f"{first}/{_ATTENTION}/query/kernel"]
        depth = sum(k.startswith(f"{prefix}/encoderblock_") and k.endswith("/query/kernel") for k in shapes)
        return presets.tower(width, depth, heads, shapes[f"{first}/MlpBlock_0/Dense_0/bias"][0], **presets.SIGLIP_TOWER)

    patch = shapes["img/embedding/kernel"][0]
    grid = round(shapes["img/pos_embedding"][1] ** 0.5)
    fields = {
        "patch": patch,
        "image": transformer("img/Transformer"),
        "text": transformer("txt/Encoder_0"),
        "vocab": shapes["txt/Embed_0/embedding"][0],
        "context": shapes["txt/pos_embedding"][1],
    }
    known = {
        config.image.size
        for config in presets.PRESETS.values()
        if config.image.grid == grid and config == presets.siglip(size=config.image.size, **fields)
    }
    return presets.siglip(size=known.pop() if known else grid * patch, **fields)
