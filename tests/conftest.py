"""Eight simulated devices for the whole suite; single-device tests run on the first."""

import signal

import jax

# A shell without job control starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 8)
