"""Model names -> configs. Sizes follow the published configs (OpenAI's CLIP, OpenCLIP's ``model_configs``,
big_vision's ``vit.py``).

Any other size comes from a checkpoint's own config file, or takes one more line here. The tiny ones learn the scenes
world on two cores, and are exported as genuine CLIP and SigLIP models.
"""

import re

from naturel_jax.models.families import FAMILIES
from naturel_jax.models.two_tower import TwoTowerConfig
from tfds_naturel.common.errors import UserError

CLIP, SIGLIP, NAFLEX = FAMILIES["clip"], FAMILIES["siglip"], FAMILIES["siglip2"]

# Size name -> (width, depth, heads, MLP width) of each tower, and CLIP's embedding width.
_CLIP_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "b": ((768, 12, 12), (512, 12, 8), 512),
    "l": ((1024, 24, 16), (768, 12, 12), 768),
    "h": ((1280, 32, 16), (1024, 24, 16), 1024),
    "g": ((1408, 40, 16, 6144), (1024, 24, 16), 1024),
}
_SIGLIP_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b": ((768, 12, 12), (768, 12, 12)),
    "l": ((1024, 24, 16), (1024, 24, 16)),
    "so400m": ((1152, 27, 16, 4304), (1152, 27, 16, 4304)),
    "g": ((1536, 40, 16), (1152, 27, 16, 4304)),  # giant-opt
}


def _clip(name: str, patch: int, size: int = 224, activation: str = "quick_gelu") -> TwoTowerConfig:
    image, text, embed_dim = _CLIP_SIZES[name]
    return CLIP.config(
        size=size,
        patch=patch,
        image=CLIP.tower(*image, activation=activation),
        text=CLIP.tower(*text, activation=activation),
        embed_dim=embed_dim,
    )


def _siglip(name: str, patch: int, size: int, vocab: int | None = None, context: int | None = None) -> TwoTowerConfig:
    image, text = (SIGLIP.tower(*sizes) for sizes in _SIGLIP_SIZES[name])
    return SIGLIP.config(size=size, patch=patch, image=image, text=text, vocab=vocab, context=context)


def _naflex(name: str) -> TwoTowerConfig:
    image, text = (NAFLEX.tower(*sizes) for sizes in _SIGLIP_SIZES[name])
    return NAFLEX.config(size=256, patch=16, image=image, text=text, vocab=_GEMMA)


_GEMMA = 256_000  # tokens in SigLIP 2's vocabulary

PRESETS: dict[str, TwoTowerConfig] = {
    "tiny-clip": CLIP.config(
        size=48,
        patch=12,
        image=CLIP.tower(128, 4, 2),
        text=CLIP.tower(128, 2, 2),
        embed_dim=128,
        vocab=1024,
        context=32,
        eos_id=1,
    ),
    "tiny-siglip": SIGLIP.config(
        size=48,
        patch=12,
        image=SIGLIP.tower(128, 4, 2),
        text=SIGLIP.tower(128, 2, 2),
        vocab=1024,
        context=16,
    ),
    "tiny-naflex": NAFLEX.config(
        size=64,
        patch=16,
        image=NAFLEX.tower(128, 4, 2),
        text=NAFLEX.tower(128, 2, 2),
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
    "siglip2-b32-256": _siglip("b", 32, 256, vocab=_GEMMA),
    "siglip2-b16-224": _siglip("b", 16, 224, vocab=_GEMMA),
    "siglip2-b16-256": _siglip("b", 16, 256, vocab=_GEMMA),
    "siglip2-b16-384": _siglip("b", 16, 384, vocab=_GEMMA),
    "siglip2-b16-512": _siglip("b", 16, 512, vocab=_GEMMA),
    "siglip2-l16-256": _siglip("l", 16, 256, vocab=_GEMMA),
    "siglip2-l16-384": _siglip("l", 16, 384, vocab=_GEMMA),
    "siglip2-l16-512": _siglip("l", 16, 512, vocab=_GEMMA),
    "siglip2-so400m14-224": _siglip("so400m", 14, 224, vocab=_GEMMA),
    "siglip2-so400m14-384": _siglip("so400m", 14, 384, vocab=_GEMMA),
    "siglip2-so400m16-256": _siglip("so400m", 16, 256, vocab=_GEMMA),
    "siglip2-so400m16-384": _siglip("so400m", 16, 384, vocab=_GEMMA),
    "siglip2-so400m16-512": _siglip("so400m", 16, 512, vocab=_GEMMA),
    "siglip2-g16-256": _siglip("g", 16, 256, vocab=_GEMMA),
    "siglip2-g16-384": _siglip("g", 16, 384, vocab=_GEMMA),
    "siglip2-b16-naflex": _naflex("b"),
    "siglip2-so400m16-naflex": _naflex("so400m"),
}


def preset(name: str) -> TwoTowerConfig:
    """The config called ``name``. Raises UserError listing the names."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; expected one of: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


# Names on the hub of models with the sizes of a preset.
_PUBLISHED = re.compile(
    r"hf:(?:openai/(clip)-vit|google/(siglip2?))-(base|large|so400m|giant-opt)-patch(\d+)(-\d+|-naflex)?"
)


def published(source: str) -> TwoTowerConfig | None:
    """The sizes of a checkpoint that OpenAI or Google published on the hub (``hf:openai/clip-vit-base-patch32``), by
    its name alone; None for any other."""
    if not (match := _PUBLISHED.fullmatch(source)):
        return None
    clip, siglip, size, patch, pixels = match.groups()
    short = {"base": "b", "large": "l", "giant-opt": "g"}.get(size, size)
    return PRESETS.get(f"{clip or siglip}-{short}{patch}{pixels or ''}")
