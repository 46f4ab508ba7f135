"""Eight simulated devices for the whole suite; single-device tests run on the first."""

import signal

import jax
import pytest

# A shell without job control starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Commands install handlers for the life of their process, which here is that of all tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
