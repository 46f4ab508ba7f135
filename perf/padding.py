"""Whether TPUs gain if the patches of an image are padded to a length that fills their registers or matrix unit: what
the TPU compiler says of two blocks and their gradient.

    python -m perf.padding    # with naturel_jax[plan-tpu]

``blocks``: padded before the first block, cut off after the last. ``attention``: only queries, keys and values are.
Padding is masked. Rows with padding are relative to the row of their tower without.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

from naturel_jax.planning import topologies

_TOPOLOGY = "v5e:2x2"
topologies.prepare(_TOPOLOGY)  # before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from naturel_jax.devices.sharding import batch_sharding, make_mesh  # noqa: E402
from naturel_jax.models.presets import preset  # noqa: E402
from naturel_jax.models.transformer import Compute, Transformer  # noqa: E402
from tfds_naturel.common import cli  # noqa: E402

_ROWS = 64  # images on a chip
_DEPTH = 2


class Tower(NamedTuple):
    """``tokens``: patches, and the class token; ``blocks`` and ``attention``: lengths that they are padded to."""

    preset: str
    tokens: int
    blocks: tuple[int, ...]
    attention: tuple[int, ...]


TOWERS = (
    Tower("clip-b32", 50, (56, 64), (64, 128)),
    Tower("siglip-b16-224", 196, (200, 208, 256), (208, 256)),
    Tower("clip-l14", 257, (264, 272, 384), (272, 384)),
)


def measure(tower: Tower, part: str, length: int) -> tuple[float, float, float]:
    """TFLOPs, GiB moved and GiB of temporaries on a chip, with ``part`` ("blocks" or "attention") padded to
    ``length``."""
    attend = jax.nn.dot_product_attention
    sizes = dataclasses.replace(preset(tower.preset).image.transformer, depth=_DEPTH)
    compute = Compute("bfloat16", flat=False, unroll=True)
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, compute, nnx.Rngs(0))))
    mesh = make_mesh({"data": -1}, topologies.devices(_TOPOLOGY))
    whole, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)

    def padded(x: jax.Array, to: int) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, max(to - x.shape[1], 0)), *[(0, 0)] * (x.ndim - 2)])

    def masked(q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> jax.Array:
        to = length if part == "attention" else q.shape[1]
        valid = jnp.full(q.shape[0], tower.tokens, jnp.int32) if to > tower.tokens else None
        y = attend(*(padded(x, to) for x in (q, k, v)), **options | {"key_value_seq_lengths": valid})
        return y[:, : q.shape[1]]

    def gradient(state: Any, x_ITD: jax.Array, weight_ITD: jax.Array) -> Any:
        def total(state: Any, x_ITD: jax.Array) -> jax.Array:
            y_ITD = nnx.merge(graph, state)(padded(x_ITD, length if part == "blocks" else 0), causal=False)
            return jnp.vdot(y_ITD[:, : tower.tokens], weight_ITD).astype(jnp.float32)

        return jax.grad(total, argnums=(0, 1))(state, x_ITD)

    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
    shape = (_ROWS * mesh.size, tower.tokens, sizes.width)
    x_ITD = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=rows)
    with mock.patch.object(jax.nn, "dot_product_attention", masked):
        program = jax.jit(gradient).lower(params, x_ITD, x_ITD).compile()
    costs, memory = program.cost_analysis(), program.memory_analysis()
    return costs["flops"] / 1e12, costs["bytes accessed"] / 2**30, memory.temp_size_in_bytes / 2**30


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    print(f"{_DEPTH} blocks and their gradient, bfloat16, {_ROWS} images on each chip of {_TOPOLOGY}")
    print("| tower | padded | tokens | TFLOPs | GiB moved | GiB of temporaries |")
    print("|---|---|---:|---:|---:|---:|")
    for tower in TOWERS:
        plain = measure(tower, "blocks", tower.tokens)
        print(f"| {tower.preset} | | {tower.tokens} | {plain[0]:.3f} | {plain[1]:.2f} | {plain[2]:.3f} |", flush=True)
        for part in ("blocks", "attention"):
            for length in getattr(tower, part):
                found = (f"{new / old:.2f}" for new, old in zip(measure(tower, part, length), plain, strict=True))
                print(f"| | {part} | {length} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
