"""One two-tower model for all families; whatever differs between them is a field of the config.

CLIP: Radford et al., arXiv 2103.00020. SigLIP: Zhai et al., arXiv 2303.15343. SigLIP 2: arXiv 2502.14786.

Shape letters: I images, H, W pixels, C channels, P patches that are kept, U captions, L length (tokens, or
patches and the class token), B batch, D width of a tower or of the embeddings, N rows or indices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from naturel_jax.models import naflex
from naturel_jax.models.naflex import Patches
from naturel_jax.models.transformer import (
    Attention,
    Compute,
    Mlp,
    Transformer,
    TransformerConfig,
    check_flag,
    check_size,
    is_finite,
    layer_norm,
)

Params = dict[str, Any]  # nested dict of arrays; paths joined with '/' name parameters everywhere (rules, tables, logs)
Images = jax.Array | Patches
Encode = Callable[[Params, Any], jax.Array]  # images or tokens to embeddings

ABOVE_BLOCKS = ("post_norm", "head", "projection")  # parts of a tower that come after its blocks


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The image tower. ``pool``: ``cls`` (class token) or ``map`` (attention pooling by one probe)."""

    size: int
    patch: int
    transformer: TransformerConfig
    pool: str
    pre_norm: bool  # LayerNorm before the blocks
    patch_bias: bool
    projection: bool  # a linear layer without bias from width to embed_dim, after pooling
    naflex: bool = False  # takes ``naflex.Patches`` of any grid; ``size`` is that of the grid of positions it resizes

    def __post_init__(self) -> None:
        for name in ("size", "patch"):
            check_size(name, getattr(self, name), 1 << 14)
        for name in ("pre_norm", "patch_bias", "projection", "naflex"):
            check_flag(name, getattr(self, name))
        if self.pool not in ("cls", "map"):
            raise ValueError(f"image pool {self.pool!r}: expected 'cls' or 'map'")
        if self.size < self.patch:
            raise ValueError(f"image size {self.size} is smaller than one patch ({self.patch})")

    @property
    def grid(self) -> int:
        """Patches along one side (a border narrower than a patch is cropped, as a strided convolution does:
        So400m/14 at 384)."""
        return self.size // self.patch


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text tower. ``pool``: ``eos`` (first end token; needs ``eos_id``) or ``last`` (last position)."""

    vocab: int
    context: int
    transformer: TransformerConfig
    causal: bool
    pool: str
    projection_bias: bool
    eos_id: int | None = None

    def __post_init__(self) -> None:
        check_size("vocab", self.vocab, 1 << 24)
        check_size("context", self.context, 1 << 16)
        for name in ("causal", "projection_bias"):
            check_flag(name, getattr(self, name))
        if self.pool not in ("eos", "last"):
            raise ValueError(f"text pool {self.pool!r}: expected 'eos' or 'last'")
        if (self.pool == "eos") != isinstance(self.eos_id, int):
            raise ValueError(
                f"text pool {self.pool!r} with eos_id {self.eos_id}: eos_id must be set for pool 'eos', and only for it"
            )


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """Both towers, and the scale and bias of the logits.

    ``init_scale`` is the scale t itself (CLIP 1/0.07, SigLIP 10), ``init_bias`` the bias b or None for a model without
    one. ``max_scale`` keeps t within [1, max_scale] during training (CLIP: 100; None: no limits).
    """

    image: ImageConfig
    text: TextConfig
    embed_dim: int
    init_scale: float
    init_bias: float | None
    max_scale: float | None

    def __post_init__(self) -> None:
        check_size("embed_dim", self.embed_dim, 1 << 16)
        for name in ("init_scale", "init_bias", "max_scale"):
            value = getattr(self, name)
            if (value is not None or name == "init_scale") and not is_finite(value):
                raise ValueError(f"{name} {value!r:.80}: expected a number")
        if self.init_scale <= 0:
            raise ValueError(f"init_scale {self.init_scale}: expected more than 0")
        if self.max_scale is not None and self.max_scale < 1:
            raise ValueError(f"max_scale {self.max_scale}: expected at least 1")
        if not self.image.projection and self.image.transformer.width != self.embed_dim:
            raise ValueError(
                f"embed_dim {self.embed_dim} differs from the image width {self.image.transformer.width} "
                "and there is no projection"
            )


def config_from_dict(fields: dict[str, Any]) -> TwoTowerConfig:
    """Inverse of ``dataclasses.asdict``, for configs saved as JSON. Raises TypeError for unknown or missing fields."""
    towers: dict[str, Any] = {
        name: kind(**fields[name] | {"transformer": TransformerConfig(**fields[name]["transformer"])})
        for name, kind in (("image", ImageConfig), ("text", TextConfig))
    }
    return TwoTowerConfig(**fields | towers)


def _linear(inputs: int, outputs: int, compute: Compute, rngs: nnx.Rngs, *, bias: bool) -> nnx.Linear:
    init = nnx.initializers.normal(inputs**-0.5)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, dtype=compute.dtype, rngs=rngs)


class MapHead(nnx.Module):
    """SigLIP's attention pooling: one learned probe attends to all patches; then a residual MLP."""

    def __init__(self, config: TransformerConfig, compute: Compute, rngs: nnx.Rngs):
        self.probe = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (1, config.width)))
        self.attn = Attention(config, compute, rngs)
        self.norm = layer_norm(config.width, config.eps, compute, rngs)
        self.mlp = Mlp(config, compute, rngs)

    def __call__(self, x_ILD: jax.Array, lengths_I: jax.Array | None) -> jax.Array:
        probe_I1D = jnp.broadcast_to(self.probe[...], (x_ILD.shape[0], *self.probe.shape))
        x_ID = self.attn.probe(probe_I1D, x_ILD, lengths_I)[:, 0]
        return x_ID + self.mlp(self.norm(x_ID))


class ImageTower(nnx.Module):
    """A vision transformer, which can also take a subset of each image's patches: ``patches_IP``, distinct indices in
    ascending order, int32. As in OpenCLIP, the others are dropped after positions are added (FLIP, arXiv 2212.00794);
    the class token stays. A NaFlex tower takes ``naflex.Patches``, all of them."""

    def __init__(self, config: ImageConfig, embed_dim: int, compute: Compute, rngs: nnx.Rngs):
        width, eps = config.transformer.width, config.transformer.eps
        self.config, self.dtype = config, compute.dtype
        self.patch = _linear(config.patch**2 * 3, width, compute, rngs, bias=config.patch_bias)
        tokens = config.grid**2 + (config.pool == "cls")
        # As large as the patch embeddings, so that positions are learned in hundreds of steps instead of thousands.
        self.position = nnx.Param(nnx.initializers.normal(0.5)(rngs.params(), (tokens, width)))
        if config.pool == "cls":
            self.class_token = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (width,)))
        if config.pre_norm:
            self.pre_norm = layer_norm(width, eps, compute, rngs)
        self.transformer = Transformer(config.transformer, compute, rngs, frozen=compute.frozen_image)
        self.post_norm = layer_norm(width, eps, compute, rngs)
        if config.pool == "map":
            self.head = MapHead(config.transformer, compute, rngs)
        if config.projection:
            self.projection = _linear(width, embed_dim, compute, rngs, bias=False)

    def __call__(self, images: Images, patches_IP: jax.Array | None = None) -> jax.Array:
        c = self.config
        if c.naflex != isinstance(images, Patches):
            raise ValueError(f"a {type(images).__name__}: this tower takes {'Patches' if c.naflex else 'an array'}")
        if isinstance(images, Patches):
            x_ILD, lengths_I = naflex.embed(images, self.position[...], self.patch, self.dtype), images.lengths_I
        else:
            x_ILD, lengths_I = self._embed(images, patches_IP), None
        if c.pre_norm:
            x_ILD = self.pre_norm(x_ILD)
        x_ILD = self.transformer(x_ILD, causal=False, lengths_B=lengths_I)
        x_ID = self.head(self.post_norm(x_ILD), lengths_I) if c.pool == "map" else self.post_norm(x_ILD[:, 0])
        return self.projection(x_ID) if c.projection else x_ID

    def _embed(self, images_IHWC: jax.Array, patches_IP: jax.Array | None) -> jax.Array:
        """The blocks' input for square images."""
        c = self.config
        i, (g, p) = images_IHWC.shape[0], (c.grid, c.patch)
        if images_IHWC.shape[1:] != (c.size, c.size, 3):
            raise ValueError(f"images {images_IHWC.shape}: this tower takes [I, {c.size}, {c.size}, 3]")
        patches = images_IHWC[:, : g * p, : g * p].reshape(i, g, p, g, p, 3).swapaxes(2, 3).reshape(i, g * g, p * p * 3)
        x_ILD = self.patch(patches.astype(self.dtype))
        if c.pool == "cls":
            cls = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (i, 1, x_ILD.shape[-1]))
            x_ILD = jnp.concatenate([cls, x_ILD], axis=1)
        x_ILD = x_ILD + self.position[...].astype(self.dtype)
        if patches_IP is not None:
            x_ILD = _take(x_ILD, jnp.pad(patches_IP + 1, ((0, 0), (1, 0))) if c.pool == "cls" else patches_IP)
        return x_ILD


def _take(x_ILD: jax.Array, index_IN: jax.Array) -> jax.Array:
    """The positions ``index_IN`` of each sequence, distinct and ascending, so the gradient is a scatter without
    collisions, and devices that share the batch exchange nothing."""
    options = {"mode": "promise_in_bounds", "unique_indices": True, "indices_are_sorted": True}
    return jax.vmap(lambda x_LD, index_N: x_LD.at[index_N].get(**options))(x_ILD, index_IN)


class TextTower(nnx.Module):
    """A text transformer. A causal one also accepts fewer tokens than the context, since what follows the end token
    does not affect its result."""

    def __init__(self, config: TextConfig, embed_dim: int, compute: Compute, rngs: nnx.Rngs):
        width = config.transformer.width
        self.config, self.dtype = config, compute.dtype
        self.embed = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (config.vocab, width)))
        self.position = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (config.context, width)))
        self.transformer = Transformer(config.transformer, compute, rngs, frozen=compute.frozen_text)
        self.post_norm = layer_norm(width, config.transformer.eps, compute, rngs)
        self.projection = _linear(width, embed_dim, compute, rngs, bias=config.projection_bias)

    def __call__(self, tokens_UL: jax.Array) -> jax.Array:
        length = tokens_UL.shape[1]
        if length > self.config.context or (length < self.config.context and not self.config.causal):
            limit = "at most" if self.config.causal else "exactly"
            why = "" if self.config.causal else ", since it attends to padding"
            raise ValueError(f"tokens {tokens_UL.shape}: this tower takes {limit} {self.config.context} per text{why}")
        # Cast after the lookup, so that the gradients of a token's thousands of copies are added up in float32.
        x_ULD = self.embed[...][tokens_UL].astype(self.dtype) + self.position[...].astype(self.dtype)[:length]
        x_ULD = self.transformer(x_ULD, causal=self.config.causal)
        if self.config.pool == "eos":
            x_UD = x_ULD[jnp.arange(x_ULD.shape[0]), jnp.argmax(tokens_UL == self.config.eos_id, axis=1)]
        else:
            x_UD = x_ULD[:, -1]
        return self.projection(self.post_norm(x_UD))


class TwoTower(nnx.Module):
    """Image tower, text tower, logit scale (its logarithm, as every checkpoint stores it) and, if the config has
    one, logit bias."""

    def __init__(self, config: TwoTowerConfig, compute: Compute, rngs: nnx.Rngs):
        self.image = ImageTower(config.image, config.embed_dim, compute, rngs)
        self.text = TextTower(config.text, config.embed_dim, compute, rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(config.init_scale)))
        if config.init_bias is not None:
            self.logit_bias = nnx.Param(jnp.float32(config.init_bias))


def unit(x_ND: jax.Array) -> jax.Array:
    """Rows of ``x_ND`` divided by their L2 norm, float32."""
    x_ND = x_ND.astype(jnp.float32)
    return x_ND / jnp.linalg.norm(x_ND, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Model:
    """A two-tower model as pure functions of a parameter tree (nested dict of float32 arrays)."""

    config: TwoTowerConfig
    compute: Compute = dataclasses.field(default_factory=Compute)

    def init(self, key: jax.Array) -> Params:
        """Random parameters from a PRNG key."""
        return nnx.to_pure_dict(nnx.state(TwoTower(self.config, self.compute, nnx.Rngs(params=key))))

    def shapes(self) -> Params:
        """The parameter tree as ``jax.ShapeDtypeStruct``, without computing anything."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def _bind(self, params: Params) -> TwoTower:
        graphdef, state = nnx.split(nnx.eval_shape(lambda: TwoTower(self.config, self.compute, nnx.Rngs(0))))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graphdef, state)

    def encode_image(self, params: Params, images: Images, patches_IP: jax.Array | None = None) -> jax.Array:
        """Unit embeddings [I, D], float32, of normalized images: [I, H, W, 3], or ``naflex.Patches`` for a NaFlex
        tower. With ``patches_IP``, only of these patches (see ``ImageTower``)."""
        return unit(self._bind(params).image(images, patches_IP))

    def encode_text(self, params: Params, tokens_UL: jax.Array) -> jax.Array:
        """Unit embeddings [U, D], float32, of token ids [U, L] (int32)."""
        return unit(self._bind(params).text(tokens_UL))

    def image_norm(self, params: Params, images: Images) -> jax.Array:
        """L2 norms [I], float32, of the embeddings of ``encode_image`` before they are normalized."""
        return jnp.linalg.norm(self._bind(params).image(images).astype(jnp.float32), axis=-1)

    def text_norm(self, params: Params, tokens_UL: jax.Array) -> jax.Array:
        """L2 norms [U], float32, of the embeddings of ``encode_text`` before they are normalized."""
        return jnp.linalg.norm(self._bind(params).text(tokens_UL).astype(jnp.float32), axis=-1)


def normalize(images: Images, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """uint8 images to the towers' input, float32: ``(x / 255 - mean) / std`` by channel."""
    if isinstance(images, Patches):
        return naflex.normalize(images, mean, std)
    return (images.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)


def of_pixels(encode: Encode, mean: tuple[float, ...], std: tuple[float, ...]) -> Encode:
    """Turns a function of normalized images, such as ``Model.encode_image``, into one of uint8 images."""
    return lambda params, images: encode(params, normalize(images, mean, std))
