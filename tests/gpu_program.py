"""Compiles the gradients of a preset's towers for eight H100, none of which needs to be here, and prints the functions
of cuDNN that the program calls.

    python tests/gpu_program.py clip-l14

JAX's CUDA plugin has the compiler: ``jax[cuda12]`` in an environment of its own.
"""

import json
import os
import re
import sys

# Kernels cannot be timed without a card, and Triton's matrix products need the timing.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false --xla_gpu_enable_cublaslt=false",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from naturel_jax.models.presets import preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, Params
from naturel_jax.sharding import batch_sharding, make_mesh

# XLA's GpuTargetConfigProto, with what XLA reads off an H100 (github.com/openxla/xla/pull/25919).
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""


def program(name: str) -> str:
    """The compiled program of the gradients, for 16 images and 16 captions on each card."""
    devices = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x8").devices
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
