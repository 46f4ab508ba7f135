"""SIGTERM and Ctrl-C: the process ends at the next safe point, and the same command continues its work.

The training loop calls ``stop_requested`` after each step, and saves before it stops. Other long work (an evaluation,
drawing data, a suite) calls ``check``, which raises ``Stopped``. Work that cannot call it midway runs in
``interruptible`` if the same command does it again (a download), or else as ``abandonable`` (a compilation between two
steps). Without ``install_handler``, none of them does anything.
"""

import contextlib
import dataclasses
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_DONE, _STOPPED, _FAILED = range(3)
_POLL_S = 0.2
_PATIENCE_S = 1.0  # for Python to run its handler, which it does between two of its own instructions
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass
class _State:
    """``calls``: how often the processes have asked whether to stop. They agree on the call at which they do."""

    installed: bool = False
    stopping: bool = False
    calls: int = 0


class _Work(threading.local):
    """State of a thread: signals are handled in the main thread, and end its work regardless of what others do."""

    interruptible = False


_state, _work = _State(), _Work()
_main = _work.__dict__  # that of the thread which imports this module, the main one


def install_handler() -> None:
    """Catches both signals for the life of the process. One that comes more than a second after the first kills it at
    once; one that comes sooner is taken for the first, which a service manager sends to a process and to its parent,
    who passes it on.

    Call it after ``jax.distributed.initialize``: JAX then catches SIGTERM, and one signal to any process stops all of
    them. There, a second SIGTERM kills the process only once they have agreed.
    """
    _state.installed = True
    if jax.distributed.is_initialized():
        signal.signal(signal.SIGINT, _interrupt)
    else:
        for number in _SIGNALS:
            signal.signal(number, _request)
        received, sent = os.pipe()
        os.set_blocking(sent, False)
        signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(received, _state), name="signals", daemon=True).start()


def _watch(received: int, state: _State) -> None:
    """Ends interruptible work once a signal has come, and the process with the next: from a thread of its own, since
    Python does not run its handler while the main thread is in a library (XLA compiles for a minute, a store's answer
    takes as long)."""
    while not _came(received, None):
        pass
    time.sleep(_PATIENCE_S)
    while _came(received, 0):  # more than one sender
        pass
    while not _came(received, _POLL_S):
        if not state.stopping and _main.get("interruptible"):
            _leave()
    os.kill(os.getpid(), signal.SIGKILL)


def _came(received: int, timeout: float | None) -> bool:
    """Whether one of both signals has come, or comes within ``timeout`` seconds; None: or at all. Python writes the
    numbers of all signals that it handles, a profiler's too."""
    return bool(select.select([received], [], [], timeout)[0]) and os.read(received, 1)[0] in _SIGNALS


def _request(number: int, frame: FrameType | None) -> None:
    if _state.stopping:
        return
    _state.stopping = True
    name = signal.Signals(number).name
    _LOG.warning("%s: stopping as soon as it is safe; another one, a second later or more, kills the process", name)
    if _work.interruptible:
        _leave()


def _leave() -> None:
    _LOG.warning("stopped, with nothing to save; run the same command again to continue")
    cli.leave(cli.STOPPED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handles Ctrl-C under ``jax.distributed``, where JAX catches only SIGTERM."""
    _LOG.warning("SIGINT: all processes stop as soon as it is safe; a second one kills this process")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def stop_requested() -> bool:
    """Whether the process should stop. Once true, it stays true.

    Under ``jax.distributed``, all processes must call it (or ``check``) equally often; they get the same answers, so
    they stop at the same point, with no collective operation left half done.
    """
    if _state.installed and not _state.stopping and jax.distributed.is_initialized():
        _state.calls += 1
        if multihost_utils.reached_preemption_sync_point(_state.calls):
            _state.stopping = True
            _LOG.warning("stopping all processes")
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
    return _state.stopping


def check() -> None:
    """Raises Stopped if the process should stop. See ``stop_requested`` for use under ``jax.distributed``."""
    if stop_requested():
        raise Stopped("stopped; run the same command again to continue")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets a signal end the process at once, with exit code 75, while the main thread is in the block: for work that
    does not call ``check``, and that the same command does again if it is left half done. Threads of libraries are not
    waited for.

    Raises Stopped on entry if the process should stop already. Under ``jax.distributed``, where all processes stop
    together, they do so at the next ``check``.
    """
    check()
    outer, _work.interruptible = _work.interruptible, True
    try:
        yield
    finally:
        _work.interruptible = outer


def abandonable(work: Callable[[], T]) -> T:
    """``work()``, computed by another thread, which is left behind if the process should stop meanwhile: this raises
    Stopped at once, and the caller can save. The process then ends without waiting for the thread. Under
    ``jax.distributed``, where all processes stop together, ``work()`` is finished first.
    """
    if not _state.installed or jax.distributed.is_initialized():
        return work()
    result = Future[T]()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    worker = threading.Thread(target=run, name=cli.LEFT_BEHIND, daemon=True)
    worker.start()
    while worker.is_alive():
        check()
        worker.join(_POLL_S)
    return result.result()


def on_first_process(work: Callable[[], None]) -> None:
    """Runs ``work`` on the first process while the others wait for it. ``work`` may call ``check``.

    If it raises, so do all processes: the first what ``work`` raised, the others Stopped or UserError.
    """
    if jax.process_count() > 1:
        # The first collective operation connects the processes, which may take at most 30 s; later ones wait forever.
        multihost_utils.sync_global_devices("on_first_process")
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            work()
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        outcome = _DONE if error is None else _STOPPED if isinstance(error, Stopped) else _FAILED
        # ``work`` may have called ``check``: the others continue from the first process's number of calls.
        outcome, _state.calls = map(int, multihost_utils.broadcast_one_to_all(np.array([outcome, _state.calls])))
        if outcome == _STOPPED:
            _state.stopping = True
        if jax.process_index() > 0 and outcome != _DONE:
            check()
            raise UserError("the first process failed while the others waited for it; see its error")
    if error is not None:
        raise error
