"""Compiles the gradients of a preset's towers for eight H100, none of which needs to be here, and prints the functions
of cuDNN that the program calls.

    python tests/helpers/gpu_program.py clip-l14

JAX's CUDA plugin has the compiler: ``jax[cuda12]`` in an environment of its own.
"""

import json
import re
import sys

from naturel_jax.planning import topologies

TOPOLOGY = "h100x8"
topologies.prepare(TOPOLOGY)  # before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from naturel_jax.devices.sharding import batch_sharding, make_mesh  # noqa: E402
from naturel_jax.models.presets import preset  # noqa: E402
from naturel_jax.models.transformer import Compute  # noqa: E402
from naturel_jax.models.two_tower import Model, Params  # noqa: E402


def program(name: str) -> str:
    """The compiled program of the gradients, for 16 images and 16 captions on each card."""
    devices = topologies.devices(TOPOLOGY)
    mesh = make_mesh({"data": -1}, devices)
    config = preset(name)
    model = Model(config, Compute("bfloat16", attention="cudnn"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), model.shapes())
    rows, size = 16 * len(devices), config.image.size
    pixels = jax.ShapeDtypeStruct((rows, size, size, 3), np.float32, sharding=batch_sharding(mesh))
    tokens = jax.ShapeDtypeStruct((rows, config.text.context), np.int32, sharding=batch_sharding(mesh))

    def total(params: Params, pixels: jax.Array, tokens: jax.Array) -> jax.Array:
        return jnp.sum(model.encode_image(params, pixels)) + jnp.sum(model.encode_text(params, tokens))

    return jax.jit(jax.grad(total)).lower(params, pixels, tokens).compile().as_text()


if __name__ == "__main__":
    print(json.dumps(sorted(re.findall(r'custom_call_target="(__cudnn[^"]+)"', program(sys.argv[1])))))
