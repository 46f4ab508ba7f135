"""Attention on TPUs without a stored matrix of logits: JAX's splash kernel, written in Pallas.

Shape letters: B batch, L patches, H heads, F features of a head.
"""

from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, PartitionSpec

from naturel_jax.devices.sharding import BATCH_AXES

_LANES = 128  # lanes of the matrix unit: the kernel's block sizes are multiples of this
_MAX_BLOCK = 768  # queries or keys; the float32 logits of a block must fit into the chip's vector memory
RESIDUALS = "attention"  # what remat 'attention' keeps
LONG = 512  # the kernel is used from this many tokens on: the logits of shorter sequences need little memory


def splash_attention(
    q_BLHF: jax.Array, k_BLHF: jax.Array, v_BLHF: jax.Array, mesh: Mesh, *, interpret: bool = False
) -> jax.Array:
    """``jax.nn.dot_product_attention`` without a mask, [B, L, H, F]; sequences are padded to a multiple of 128.

    The compiler cannot split a kernel, so each device of ``mesh`` calls it on its rows of the batch, and its heads if
    the tensor axis divides them. ``interpret``: run it on any device, slowly.
    """
    length, heads, width = q_BLHF.shape[1:]
    padding = -length % _LANES

    def local(q_BLHF: jax.Array, k_BLHF: jax.Array, v_BLHF: jax.Array) -> jax.Array:
        attend = _kernel(length + padding, q_BLHF.shape[2], interpret)
        pad = ((0, 0), (0, padding), (0, 0), (0, 0))
        q_BHLF, k_BHLF, v_BHLF = (jnp.pad(x, pad).swapaxes(1, 2) for x in (q_BLHF * width**-0.5, k_BLHF, v_BLHF))
        own_L = jnp.pad(jnp.ones(length, jnp.int32), (0, padding))  # tokens attend to those of their own segment
        segments = splash.SegmentIds(q=own_L, kv=own_L) if padding else None
        y_BHLF = cast(jax.Array, jax.vmap(attend, in_axes=(0, 0, 0, None))(q_BHLF, k_BHLF, v_BHLF, segments))
        return y_BHLF.swapaxes(1, 2)[:, :length]

    spec = PartitionSpec(BATCH_AXES, None, "tensor" if heads % mesh.shape["tensor"] == 0 else None, None)
    call = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    if q_BLHF.dtype == jnp.float32:
        return call(q_BLHF, k_BLHF, v_BLHF)
    with jax.default_matmul_precision("default"):  # with any other, Pallas refuses bfloat16 factors
        return call(q_BLHF, k_BLHF, v_BLHF)


def _kernel(length: int, heads: int, interpret: bool) -> splash.SplashAttentionKernel:
    block = max(size for size in range(_LANES, min(length, _MAX_BLOCK) + 1, _LANES) if length % size == 0)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, use_fused_bwd_kernel=True
    )
    mask = masks.MultiHeadMask([masks.FullMask((length, length))] * heads)
    # The name is given to the result and to each row's sums, which the backward pass also needs.
    return splash.make_splash_mha_single_device(
        mask, block_sizes=sizes, interpret=interpret, residual_checkpoint_name=RESIDUALS
    )
