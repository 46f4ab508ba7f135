"""Runs commands as processes of their own, which stop with this one."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


def run(*commands: Sequence[str], environments: Sequence[Mapping[str, str]] = ()) -> list[int]:
    """Runs ``commands``, arguments of Python, at the same time, each with further variables in its environment; returns
    their exit codes. If this process is asked to stop (see ``preemption``), it sends them SIGTERM, and raises Stopped
    once they have ended."""
    from naturel_jax.devices import preemption  # it loads JAX, which --help does not need

    preemption.check()
    running = [
        # In a process group of its own, since a terminal would send Ctrl-C to it as well.
        subprocess.Popen(
            [sys.executable, *command], env=os.environ | variables, process_group=0, preexec_fn=_die_with_parent
        )
        for command, variables in zip(commands, environments or [{}] * len(commands), strict=True)
    ]
    while not preemption.stop_requested() and any(process.poll() is None for process in running):
        time.sleep(_POLL_S)
    if preemption.stop_requested():
        for process in running:
            process.terminate()
    codes = [process.wait() for process in running]
    preemption.check()
    return codes


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child: kills it with its parent, since a surviving child would clash with those of the next start."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
