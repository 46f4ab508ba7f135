"""Eight simulated devices for the whole suite: what runs on one device runs on the first of them."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
