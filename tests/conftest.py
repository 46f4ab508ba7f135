"""Eight simulated devices for the whole suite, and object stores on loopback; single-device tests run on the first
device."""

import contextlib
import os
import pwd
import signal
from unittest import mock

import jax
import pytest

# A shell without job control starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config):
    """XLA compiles the quick suite faster without its newer emitters for CPUs, which jaxlib 0.12 always uses. The slow
    suite has the default. On a busy machine eight simulated devices may wait for one another for longer than the 40 s
    after which XLA ends the process."""
    if jax.__version_info__ < (0, 12):
        flags = ["--xla_cpu_collective_call_terminate_timeout_seconds=300"]
        if "not slow" in config.option.markexpr:
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])


def pytest_collection_modifyitems(items):
    """Puts the file that takes longest first: at the end, one process would wait for the other's."""
    items.sort(key=lambda item: item.path.name != "test_training_processes.py")


@pytest.fixture(autouse=True)
def signal_handlers():
    """Commands install handlers for the life of their process, which here is that of all tests. Of those of earlier
    ones, no thread sees a signal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


@pytest.fixture(autouse=True, scope="session")
def nameless_owners():
    """Users have no names, as in a container that runs as any user, or on a shared disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pwd, "getpwuid", {}.__getitem__)
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA optimizes little, for modules whose tests compile longer than they compute. Those that compare numbers
    closely with other libraries do without."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # an encoder's programs are kept for the next one of its model


@pytest.fixture(scope="module")
def page():
    """A page of a browser."""
    from tests.helpers.browser import browser  # most tests have none

    with browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def stores():
    """``gs`` and ``s3`` -> a running server, which this process and those that it starts use."""
    from tests.helpers import store_servers  # imports the libraries of both stores

    with contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(store_servers.serve(kind)) for kind in ("gs", "s3")}
        for server in servers.values():
            stack.enter_context(mock.patch.dict(os.environ, server.env))
        yield servers


@pytest.fixture(params=["gs", "s3"])
def server(request, stores, monkeypatch, tmp_path):
    """A running server without faults; requests that fail are repeated soon, and copies are below ``tmp_path``."""
    from naturel_jax.storage import object_stores

    monkeypatch.setattr(object_stores, "PATIENCE", 20.0)
    monkeypatch.setattr(object_stores, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    object_stores.client.cache_clear()
    server = stores[request.param]
    server.requests.clear()  # those of other tests
    yield server
    server.faults.clear()
