"""Attention on NVIDIA GPUs through cuDNN, for sequences of any length.

Shape letters: B batch, L length, H heads, F features of a head.
"""

from typing import Literal

import jax
import jax.numpy as jnp


def padded_attention(
    q_BLHF: jax.Array,
    k_BLHF: jax.Array,
    v_BLHF: jax.Array,
    *,
    causal: bool,
    implementation: Literal["xla", "cudnn"],
    lengths_B: jax.Array | None = None,
) -> jax.Array:
    """``jax.nn.dot_product_attention`` of sequences padded to an even length, the only ones that JAX passes to cuDNN in
    training (``check_is_flash_attention`` in jax/_src/cudnn/fused_attention_stablehlo.py). The result [B, L, H, F] and
    its gradients are those without padding. ``lengths_B``: see ``Attention``.

    Padding is done here, not around the blocks: whatever cuDNN writes to padded rows is sliced off before it can reach
    the gradient of a parameter.
    """
    batch, length = q_BLHF.shape[:2]
    padding = length % 2
    q_BLHF, k_BLHF, v_BLHF = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q_BLHF, k_BLHF, v_BLHF))
    if lengths_B is None and padding and not causal:  # a causal mask already hides the padding
        lengths_B = jnp.full(batch, length, jnp.int32)  # all equal, so replicating them is fine
    y_BLHF = jax.nn.dot_product_attention(
        q_BLHF, k_BLHF, v_BLHF, is_causal=causal, key_value_seq_lengths=lengths_B, implementation=implementation
    )
    return y_BLHF[:, :length]
