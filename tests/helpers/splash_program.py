"""Compiles the image tower of a preset with splash attention as evaluators do, for eight TPU v5e, and prints how many
kernels the program calls.

    python -m tests.helpers.splash_program siglip2-b16-512 bfloat16

``pip install 'naturel_jax[plan-tpu]'`` has the compiler.
"""

import sys

from naturel_jax.planning import topologies

TOPOLOGY = "v5e:2x4"
topologies.prepare(TOPOLOGY)  # before JAX is imported

import jax  # noqa: E402
import numpy as np  # noqa: E402

from naturel_jax.devices.sharding import batch_sharding, make_mesh, shardings  # noqa: E402
from naturel_jax.evaluators.embed import Encoder  # noqa: E402
from naturel_jax.models.presets import preset  # noqa: E402
from naturel_jax.models.transformer import Compute  # noqa: E402
from naturel_jax.models.two_tower import Model  # noqa: E402
from naturel_jax.training import stand_in  # noqa: E402


def kernels(name: str, dtype: str) -> int:
    """Calls of kernels in the program that embeds 64 images."""
    config, mesh = preset(name), make_mesh({"data": -1}, topologies.devices(TOPOLOGY))
    model = Model(config, Compute(dtype, attention="splash", flat=False, mesh=mesh))
    encoder = Encoder(model, stand_in.processor(config, tokens=64), mesh=mesh, batch_size=64)
    shapes, size = model.shapes(), config.image.size
    params = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings(shapes, mesh)
    )
    images = jax.ShapeDtypeStruct((64, size, size, 3), np.uint8, sharding=batch_sharding(mesh))
    return encoder._encode_image.lower(params, images).compile().as_text().count("tpu_custom_call")


if __name__ == "__main__":
    print(kernels(*sys.argv[1:]))
