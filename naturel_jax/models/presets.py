"""Names of models -> configs. Sizes are those of the published configs (OpenAI's CLIP, OpenCLIP's ``model_configs``,
big_vision's ``vit.py``).

Any other size comes from a checkpoint's own config file. The tiny ones learn the scenes world on two cores and are
exportable as true CLIP and SigLIP models.
"""

from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import ImageConfig, TextConfig, TwoTowerConfig

CLIP_TOWER = {"activation": "quick_gelu", "eps": 1e-5}
SIGLIP_TOWER = {"activation": "gelu_tanh", "eps": 1e-6}


def tower(width: int, depth: int, heads: int, mlp_dim: int | None = None, **fields) -> TransformerConfig:
    """A transformer's config; its MLP is four times as wide as itself where ``mlp_dim`` does not say otherwise."""
    return TransformerConfig(width, depth, heads, mlp_dim or 4 * width, **fields)


def clip(
    *,
    size: int,
    patch: int,
    image: TransformerConfig,
    text: TransformerConfig,
    embed_dim: int,
    vocab: int = 49408,
    context: int = 77,
    eos_id: int = 49407,
) -> TwoTowerConfig:
    """A model of CLIP's form."""
    return TwoTowerConfig(
        image=ImageConfig(size, patch, image, pool="cls", pre_norm=True, patch_bias=False, projection=True),
        text=TextConfig(vocab, context, text, causal=True, pool="eos", projection_bias=False, eos_id=eos_id),
        embed_dim=embed_dim,
        init_scale=1 / 0.07,
        init_bias=None,
        max_scale=100.0,
    )


def siglip(
    *,
    size: int,
    patch: int,
    image: TransformerConfig,
    text: TransformerConfig,
    vocab: int = 32000,
    context: int = 64,
) -> TwoTowerConfig:
    """A model of SigLIP's form (SigLIP 2's fixed-resolution models have the same)."""
    return TwoTowerConfig(
        image=ImageConfig(size, patch, image, pool="map", pre_norm=False, patch_bias=True, projection=False),
        text=TextConfig(vocab, context, text, causal=False, pool="last", projection_bias=True),
        embed_dim=image.width,
        init_scale=10.0,
        init_bias=-10.0,
        max_scale=None,
    )


# Name of a size -> (width, depth, heads, MLP width) of each tower, and CLIP's embedding width.
_CLIP_SIZES = {
    "b": ((768, 12, 12), (512, 12, 8), 512),
    "l": ((1024, 24, 16), (768, 12, 12), 768),
    "h": ((1280, 32, 16), (1024, 24, 16), 1024),
    "g": ((1408, 40, 16, 6144), (1024, 24, 16), 1024),
}
_SIGLIP_SIZES = {
    "b": ((768, 12, 12), (768, 12, 12)),
    "l": ((1024, 24, 16), (1024, 24, 16)),
    "so400m": ((1152, 27, 16, 4304), (1152, 27, 16, 4304)),
    "g": ((1536, 40, 16), (1152, 27, 16, 4304)),  # giant-opt
}


def _clip(name: str, patch: int, size: int = 224, activation: str = "quick_gelu") -> TwoTowerConfig:
    image, text, embed_dim = _CLIP_SIZES[name]
    fields = {**CLIP_TOWER, "activation": activation}
    return clip(size=size, patch=patch, image=tower(*image, **fields), text=tower(*text, **fields), embed_dim=embed_dim)


def _siglip(name: str, patch: int, size: int, **fields) -> TwoTowerConfig:
    image, text = (tower(*sizes, **SIGLIP_TOWER) for sizes in _SIGLIP_SIZES[name])
    return siglip(size=size, patch=patch, image=image, text=text, **fields)


_GEMMA = {"vocab": 256_000}

PRESETS: dict[str, TwoTowerConfig] = {
    "tiny-clip": clip(
        size=48,
        patch=12,
        image=tower(128, 4, 2, **CLIP_TOWER),
        text=tower(128, 2, 2, **CLIP_TOWER),
        embed_dim=128,
        vocab=1024,
        context=32,
        eos_id=1,
    ),
    "tiny-siglip": siglip(
        size=48,
        patch=12,
        image=tower(128, 4, 2, **SIGLIP_TOWER),
        text=tower(128, 2, 2, **SIGLIP_TOWER),
        vocab=1024,
        context=16,
    ),
    "clip-b32": _clip("b", 32),
    "clip-b16": _clip("b", 16),
    "clip-l14": _clip("l", 14),
    "clip-l14-336": _clip("l", 14, 336),
    "negclip-b32": _clip("b", 32),
    "laion-b32": _clip("b", 32, activation="gelu"),
    "laion-b32-quickgelu": _clip("b", 32),  # laion400m: trained with QuickGELU, the later ones without
    "laion-b16": _clip("b", 16, activation="gelu"),
    "laion-l14": _clip("l", 14, activation="gelu"),
    "laion-h14": _clip("h", 14, activation="gelu"),
    "laion-g14": _clip("g", 14, activation="gelu"),
    "siglip-b16-224": _siglip("b", 16, 224),
    "siglip-b16-256": _siglip("b", 16, 256),
    "siglip-b16-384": _siglip("b", 16, 384),
    "siglip-b16-512": _siglip("b", 16, 512),
    "siglip-b16-256-i18n": _siglip("b", 16, 256, vocab=250_000),
    "siglip-l16-256": _siglip("l", 16, 256),
    "siglip-l16-384": _siglip("l", 16, 384),
    "siglip-so400m14-224": _siglip("so400m", 14, 224, context=16),
    "siglip-so400m14-384": _siglip("so400m", 14, 384),
    "siglip2-b32-256": _siglip("b", 32, 256, **_GEMMA),
    "siglip2-b16-224": _siglip("b", 16, 224, **_GEMMA),
    "siglip2-b16-256": _siglip("b", 16, 256, **_GEMMA),
    "siglip2-b16-384": _siglip("b", 16, 384, **_GEMMA),
    "siglip2-b16-512": _siglip("b", 16, 512, **_GEMMA),
    "siglip2-l16-256": _siglip("l", 16, 256, **_GEMMA),
    "siglip2-l16-384": _siglip("l", 16, 384, **_GEMMA),
    "siglip2-l16-512": _siglip("l", 16, 512, **_GEMMA),
    "siglip2-so400m14-224": _siglip("so400m", 14, 224, **_GEMMA),
    "siglip2-so400m14-384": _siglip("so400m", 14, 384, **_GEMMA),
    "siglip2-so400m16-256": _siglip("so400m", 16, 256, **_GEMMA),
    "siglip2-so400m16-384": _siglip("so400m", 16, 384, **_GEMMA),
    "siglip2-so400m16-512": _siglip("so400m", 16, 512, **_GEMMA),
    "siglip2-g16-256": _siglip("g", 16, 256, **_GEMMA),
    "siglip2-g16-384": _siglip("g", 16, 384, **_GEMMA),
}


def preset(name: str) -> TwoTowerConfig:
    """The config called ``name``. Raises ValueError that lists the names."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known; expected one of: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
