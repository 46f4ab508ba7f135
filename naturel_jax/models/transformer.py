"""The transformer that both towers of every family share: pre-norm blocks, stacked and scanned.

Shape letters: B batch, L length (tokens, or patches and the class token), D width, H heads, F features of a head, C = 3
for query, key and value, E width of the result, Q probes, N all leading dimensions together.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding

from naturel_jax.models import cudnn, splash

# OpenAI CLIP and NegCLIP were trained with QuickGELU, LAION's CLIP with the exact GELU, SigLIP with its tanh form. The
# last two differ by 1e-3.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}

# What the forward pass saves for the backward pass.
_POLICIES = jax.checkpoint_policies
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,  # everything
    "attention": _POLICIES.save_from_both_policies(
        _POLICIES.dots_with_no_batch_dims_saveable, _POLICIES.save_only_these_names(splash.RESIDUALS)
    ),  # weight matmuls, and what attention returns
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,  # weight matmuls
    "offload": _POLICIES.offload_dot_with_no_batch_dims("device", "pinned_host"),  # the same, in host memory
    "full": _POLICIES.nothing_saveable,  # the inputs of each block
}

# How attention is computed; None: as JAX does by default, which is "xla" up to JAX 0.12.
ATTENTIONS = (None, "xla", "cudnn", "splash")


def check_size(name: str, value: object, largest: int) -> None:
    """Raises ValueError unless ``value`` is a whole number from 1 to ``largest``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
        raise ValueError(f"{name} {value!r:.80}: expected a whole number from 1 to {largest}")


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} {value!r:.80}: expected true or false")


def is_finite(value: object) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one tower's transformer. ``eps`` is LayerNorm's."""

    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str
    eps: float

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_dim"):
            check_size(name, getattr(self, name), 1 << 16)
        check_size("depth", self.depth, 1 << 10)  # each block has names in the tables of weights
        if not isinstance(self.eps, float) or not 0 < self.eps < 1:
            raise ValueError(f"eps {self.eps!r:.80}: expected a number between 0 and 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r}: expected one of {sorted(ACTIVATIONS)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a tower computes, as opposed to what it computes.

    ``dtype`` is that of the activations (parameters stay float32), ``remat`` a key of ``REMAT_POLICIES``, ``attention``
    one of ``ATTENTIONS``. ``frozen_image`` and ``frozen_text``: number of lowest blocks that are frozen, with the
    embeddings below them; the backward pass stops above them. ``flat``: collapse leading dimensions, and heads with
    their width, before each product with weights. That is fastest on CPUs; on TPUs the reshapes cost layout copies
    (docs/plan.md). ``rows``: sharding constraint on the batch axis of activations. Set with FSDP, where XLA would
    otherwise shard activations like the parameters. ``unroll``: no scan over the blocks; stacking its residuals takes a
    fifth of a small model's step on CPUs. Several CPU devices need it: XLA's CPU runtime may start the collectives of a
    loop in different orders on different devices, which deadlocks. ``mesh``: the devices, for splash attention, which
    the compiler cannot split, and which is used for sequences of at least ``splash.LONG`` without a mask.
    """

    dtype: str = "float32"
    remat: str = "none"
    attention: str | None = None
    frozen_image: int = 0
    frozen_text: int = 0
    flat: bool = True
    rows: NamedSharding | None = None
    unroll: bool = False
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat {self.remat!r}: expected one of {sorted(REMAT_POLICIES)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention {self.attention!r}: expected one of {list(ATTENTIONS)}")
        if self.attention == "splash" and self.mesh is None:
            raise ValueError("attention 'splash' needs a mesh")


def layer_norm(width: int, eps: float, compute: Compute, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with the two-pass variance: the one-pass form loses digits that agreement to 1e-5 with other
    implementations needs."""
    return nnx.LayerNorm(width, epsilon=eps, dtype=compute.dtype, use_fast_variance=False, rngs=rngs)


def flatten_leading(layer: Callable[[jax.Array], jax.Array], x_BLD: jax.Array) -> jax.Array:
    """``layer`` on ``x_BLD`` as [B * L, D]: with one leading dimension XLA's CPU backend computes the gradients of
    weights twice as fast."""
    y_ND = layer(x_BLD.reshape(-1, x_BLD.shape[-1]))
    return y_ND.reshape(*x_BLD.shape[:-1], *y_ND.shape[1:])


def affine(kernel_DE: jax.Array, bias_E: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """A dense layer from [N, D] to [N, E], in the dtype of its argument. Attention kernels are passed as matrices: with
    more dimensions, XLA's CPU backend copies them, and gradients of their results, in each backward pass."""
    return lambda x_ND: x_ND @ kernel_DE.astype(x_ND.dtype) + bias_E.astype(x_ND.dtype)


class Attention(nnx.Module):
    """Multi-head attention. Queries, keys and values have one parameter, ``qkv`` [D, 3, H, F], which the tensor axis of
    a mesh splits by heads; they are three products. ``lengths_B``, int32: how many of the L positions of each sequence
    are attended to, the first; None: all."""

    def __init__(self, config: TransformerConfig, compute: Compute, rngs: nnx.Rngs):
        d, h = config.width, config.heads
        self.qkv = nnx.LinearGeneral(
            d, (3, h, d // h), kernel_init=nnx.initializers.normal(d**-0.5), dtype=compute.dtype, rngs=rngs
        )
        init = nnx.initializers.xavier_uniform()
        self.out = nnx.LinearGeneral((h, d // h), d, axis=(-2, -1), kernel_init=init, dtype=compute.dtype, rngs=rngs)
        self.attention, self.mesh, self.flat = compute.attention, compute.mesh, compute.flat

    def __call__(self, x_BLD: jax.Array, *, causal: bool, lengths_B: jax.Array | None = None) -> jax.Array:
        q, k, v = (self._project(x_BLD, part) for part in range(3))
        masked = causal or lengths_B is not None
        if self.attention == "cudnn":
            y_BLHF = cudnn.padded_attention(q, k, v, causal=causal, implementation="cudnn", lengths_B=lengths_B)
        elif self.attention == "splash" and self.mesh and not masked and x_BLD.shape[1] >= splash.LONG:
            y_BLHF = splash.splash_attention(q, k, v, self.mesh)
        else:
            options: dict[str, Any] = {"is_causal": causal, "key_value_seq_lengths": lengths_B}
            options["implementation"] = "xla" if self.attention == "xla" else None
            y_BLHF = checkpoint_name(jax.nn.dot_product_attention(q, k, v, **options), splash.RESIDUALS)
        if not self.flat:
            return self.out(y_BLHF)
        assert self.out.bias is not None  # use_bias is on by default
        kernel_DD, bias_D = self.out.kernel[...].reshape(-1, x_BLD.shape[-1]), self.out.bias[...]
        return flatten_leading(affine(kernel_DD, bias_D), y_BLHF.reshape(x_BLD.shape))

    def _project(self, x_BLD: jax.Array, part: int) -> jax.Array:
        """The queries (0), keys (1) or values (2) of ``x_BLD``, [B, L, H, F]."""
        assert self.qkv.bias is not None
        kernel_DHF, bias_HF = self.qkv.kernel[...][:, part], self.qkv.bias[...][part]
        if not self.flat:
            dtype = x_BLD.dtype
            return jnp.einsum("bld,dhf->blhf", x_BLD, kernel_DHF.astype(dtype)) + bias_HF.astype(dtype)
        kernel_DD = kernel_DHF.reshape(x_BLD.shape[-1], -1)
        y_BLD = flatten_leading(affine(kernel_DD, bias_HF.reshape(-1)), x_BLD)
        return y_BLD.reshape(*x_BLD.shape[:-1], *bias_HF.shape)

    def probe(self, probe_BQD: jax.Array, x_BLD: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """Attention of ``probe_BQD`` over ``x_BLD`` (SigLIP's pooling), with the same parameters."""
        assert self.qkv.bias is not None  # use_bias is on by default
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        dtype = x_BLD.dtype
        q = jnp.einsum("bqd,dhf->bqhf", probe_BQD.astype(dtype), kernel[:, 0].astype(dtype)) + bias[0].astype(dtype)
        kv = jnp.einsum("bld,dchf->cblhf", x_BLD, kernel[:, 1:].astype(dtype)) + bias[1:, None, None].astype(dtype)
        y = jax.nn.dot_product_attention(q, *kv, key_value_seq_lengths=lengths_B, implementation="xla")
        return self.out(y)


class Mlp(nnx.Module):
    """Two dense layers around the family's activation."""

    def __init__(self, config: TransformerConfig, compute: Compute, rngs: nnx.Rngs):
        init = nnx.initializers.xavier_uniform()
        self.up = nnx.Linear(config.width, config.mlp_dim, kernel_init=init, dtype=compute.dtype, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, config.width, kernel_init=init, dtype=compute.dtype, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.activation(self.up(x)))


class Block(nnx.Module):
    """A pre-norm block: ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``."""

    def __init__(self, config: TransformerConfig, compute: Compute, rngs: nnx.Rngs):
        self.norm1 = layer_norm(config.width, config.eps, compute, rngs)
        self.attn = Attention(config, compute, rngs)
        self.norm2 = layer_norm(config.width, config.eps, compute, rngs)
        self.mlp = Mlp(config, compute, rngs)
        self.flat = compute.flat

    def __call__(self, x_BLD: jax.Array, *, causal: bool, lengths_B: jax.Array | None = None) -> jax.Array:
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD), causal=causal, lengths_B=lengths_B)
        y_BLD = self.norm2(x_BLD)
        return x_BLD + (flatten_leading(self.mlp, y_BLD) if self.flat else self.mlp(y_BLD))


class Transformer(nnx.Module):
    """``depth`` blocks whose parameters are stacked along a leading axis and scanned, so that one block is compiled
    at any depth. The lowest ``frozen`` are scanned separately, without gradients."""

    def __init__(self, config: TransformerConfig, compute: Compute, rngs: nnx.Rngs, *, frozen: int = 0):
        stack = nnx.split_rngs(splits=config.depth)(nnx.vmap(lambda rngs: Block(config, compute, rngs)))
        self.blocks = stack(rngs)
        self.compute, self.depth, self.frozen = compute, config.depth, frozen

    def __call__(self, x_BLD: jax.Array, *, causal: bool, lengths_B: jax.Array | None = None) -> jax.Array:
        graphdef, stacked = nnx.split(self.blocks)

        # Cast the stacked parameters once: casting inside the scan would save a second copy as residuals. Gradients are
        # then stacked in this dtype too, half as large in bfloat16. Norms stay float32.
        def cast(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            return x if "norm" in jax.tree_util.keystr(path[:1]) else x.astype(self.compute.dtype)

        stacked = jax.tree.map_with_path(cast, stacked)

        def body(x_BLD: jax.Array, block: nnx.State) -> tuple[jax.Array, None]:
            if self.compute.rows:
                x_BLD = jax.lax.with_sharding_constraint(x_BLD, self.compute.rows)
            return nnx.merge(graphdef, block)(x_BLD, causal=causal, lengths_B=lengths_B), None

        if policy := REMAT_POLICIES[self.compute.remat]:
            # Inside a scan, XLA cannot merge the recomputation with the original (CSE).
            body = jax.checkpoint(body, policy=policy, prevent_cse=self.compute.unroll)
        if self.frozen:
            lowest, stacked = (
                jax.tree.map(lambda x, n=n: x[n], stacked) for n in (slice(self.frozen), slice(self.frozen, None))
            )
            x_BLD, lowest = jax.lax.stop_gradient((x_BLD, lowest))
            x_BLD = jax.lax.scan(body, x_BLD, lowest, unroll=self.compute.unroll)[0]
        return jax.lax.scan(body, x_BLD, stacked, unroll=self.compute.unroll)[0] if self.frozen < self.depth else x_BLD
