"""Runs commands as processes of their own, and stops them with this one."""

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from tfds_naturel.common.errors import Stopped

_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass
class Children:
    """Runs commands, and passes SIGTERM and Ctrl-C on to those that are running; a second signal kills them."""

    running: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)
    signals: int = 0

    def install_handler(self) -> None:
        """Handles both signals for the rest of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        for process in self.running:
            process.send_signal(number if self.signals == 1 else signal.SIGKILL)

    def run(self, *commands: Sequence[str], environments: Sequence[Mapping[str, str]] = ()) -> list[int]:
        """Runs ``commands``, arguments of Python, at the same time, each with further variables in its environment;
        returns their exit codes. Raises Stopped if this process was asked to stop."""
        for command, variables in zip(commands, environments or [{}] * len(commands), strict=True):
            if self.signals:
                break
            # In a process group of its own, since a terminal would send Ctrl-C to it as well.
            process = subprocess.Popen(
                [sys.executable, *command], env=os.environ | variables, process_group=0, preexec_fn=_die_with_parent
            )
            self.running.append(process)
            if self.signals:  # a signal may have arrived before the process was in ``running``
                process.terminate()
        codes = [process.wait() for process in self.running]
        self.running.clear()
        if self.signals:
            raise Stopped("stopped; run the same command again to continue")
        return codes


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child: kills it with its parent, since a surviving child would clash with those of the next start."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
