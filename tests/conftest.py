"""Eight simulated devices for the whole suite; single-device tests run on the first."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
