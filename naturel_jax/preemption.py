"""SIGTERM and Ctrl-C: a run saves after its current step and exits; started again, it continues."""

import itertools
import logging
import signal
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils

_LOG = logging.getLogger(__name__)


def install_handler() -> Callable[[], bool]:
    """Catches both signals for the life of the process; returns ``stop_requested()``. A second signal kills it at once.

    Under ``jax.distributed``, JAX itself catches SIGTERM, and the processes agree on when to stop; all of them must
    call ``stop_requested`` equally often.
    """
    if jax.distributed.is_initialized():
        calls = itertools.count(1)
        return lambda: multihost_utils.reached_preemption_sync_point(next(calls))
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _LOG.warning("%s: saving after this step, then exiting", signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return lambda: bool(received)
