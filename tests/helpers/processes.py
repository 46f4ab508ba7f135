"""Other processes, and waiting for them."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LIMIT_S = 120  # for busy machines


def run(command: Sequence[object], folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Runs a command in ``folder``, checks that it succeeds, and returns what it prints."""
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Returns once ``condition()`` is true; fails after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {limit_s} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
