"""Names of models -> configs. The tiny ones learn the scenes world on two cores and are exportable as true CLIP and SigLIP models."""

from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import ImageConfig, TextConfig, TwoTowerConfig


def clip(
    *,
    size: int,
    patch: int,
    image: tuple[int, int, int],
    text: tuple[int, int, int],
    embed_dim: int,
    activation: str = "quick_gelu",
    image_mlp: int | None = None,
    vocab: int = 49408,
    context: int = 77,
    eos_id: int = 49407,
) -> TwoTowerConfig:
    """A CLIP model; ``image`` and ``text`` are (width, depth, heads)."""

    def tower(width, depth, heads, mlp_dim=None):
        return TransformerConfig(width, depth, heads, mlp_dim or 4 * width, activation, eps=1e-5)

    return TwoTowerConfig(
        image=ImageConfig(
            size, patch, tower(*image, image_mlp), pool="cls", pre_norm=True, patch_bias=False, projection=True
        ),
        text=TextConfig(vocab, context, tower(*text), causal=True, pool="eos", projection_bias=False, eos_id=eos_id),
        embed_dim=embed_dim,
        init_scale=1 / 0.07,
        init_bias=None,
        max_scale=100.0,
    )


def siglip(
    *,
    size: int,
    patch: int,
    image: tuple[int, int, int],
    text: tuple[int, int, int],
    mlp: tuple[int, int] | None = None,
    vocab: int = 32000,
    context: int = 64,
) -> TwoTowerConfig:
    """A SigLIP model; ``image`` and ``text`` are (width, depth, heads), ``mlp`` their MLP widths where they are not 4 times the width."""
    image_mlp, text_mlp = mlp or (4 * image[0], 4 * text[0])
    return TwoTowerConfig(
        image=ImageConfig(
            size,
            patch,
            TransformerConfig(*image, image_mlp, "gelu_tanh", eps=1e-6),
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
        ),
        text=TextConfig(
            vocab,
            context,
            TransformerConfig(*text, text_mlp, "gelu_tanh", eps=1e-6),
            causal=False,
            pool="last",
            projection_bias=True,
        ),
        embed_dim=image[0],
        init_scale=10.0,
        init_bias=-10.0,
        max_scale=None,
    )


TINY = {"image": (128, 4, 4), "text": (128, 3, 4)}

PRESETS: dict[str, TwoTowerConfig] = {
    "tiny-clip": clip(size=48, patch=8, **TINY, embed_dim=128, vocab=1024, context=32, eos_id=1),
    "tiny-siglip": siglip(size=48, patch=8, **TINY, vocab=1024, context=32),
}


def preset(name: str) -> TwoTowerConfig:
    """The config called ``name``. Raises ValueError that lists the names."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known; expected one of: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
