"""A run on one worker of a Cloud TPU slice that outlives the connection. Called by launch/tpu_vm.py.

    python launch/tpu_worker.py run CALL FLAGS...   # starts naturel_jax.main or follows it; exits with its exit code
    python launch/tpu_worker.py stop                # SIGTERM: the run saves and exits with 75
    python launch/tpu_worker.py logs LINES          # the last lines of the log

``run`` starts a process that starts the run, keeps its exit code and holds a lock as long as it lives; both are in a
session of their own. The log is ~/naturel_run/log. A second ``run`` with the same flags follows the run that is there;
with a CALL that has started or followed it, even if it has ended, since gcloud repeats a command whose connection was
lost.
"""

import collections
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path.home() / "naturel_run"
LOCK, LOG, START, PID, STATUS = (FOLDER / name for name in ("lock", "log", "start.json", "pid", "status"))

USER_ERROR, KILLED = 2, 128 + signal.SIGKILL
END_BYTES = 4096  # of the log, for those who follow a run that has started before


def acquire(kind: int) -> int | None:
    """A descriptor that holds the lock, or None if a run is going on. ``kind``: LOCK_EX to start one, LOCK_SH to look
    whether there is one, which does not keep others from looking."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT)
    for _ in range(5):  # somebody else may just be looking
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(0.02)
    os.close(descriptor)
    return None


def running() -> bool:
    """Whether a run is going on."""
    if (descriptor := acquire(fcntl.LOCK_SH)) is not None:
        os.close(descriptor)
    return descriptor is None


def replace(path: Path, text: str) -> None:
    """Writes a file that others may be reading."""
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


def run(call: str, *flags: str) -> int:
    """Starts or follows a run; returns its exit code, 2 if one with other flags is going on."""
    FOLDER.mkdir(exist_ok=True)
    size = LOG.stat().st_size if LOG.exists() else 0
    lock = acquire(fcntl.LOCK_EX)
    last: dict[str, Any] = json.loads(START.read_text()) if START.exists() else {"calls": []}
    if lock is None and last["flags"] != list(flags):
        print(f"another run is going on, with the flags {last['flags']}; stop it first", file=sys.stderr)
        return USER_ERROR
    if lock is None or call in last["calls"]:
        size = max(0, size - END_BYTES)
        replace(START, json.dumps(last | {"calls": [*last["calls"], call]}))
    else:
        STATUS.unlink(missing_ok=True)
        PID.unlink(missing_ok=True)
        replace(START, json.dumps({"calls": [call], "flags": flags}))
        with LOG.open("ab") as log:
            command = [sys.executable, __file__, "keep", *flags]
            # The lock is passed on: it is held until the last process that has it ends.
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(lock,)
            )
    if lock is not None:
        os.close(lock)
    return follow(size)


def keep(*flags: str) -> int:
    """Runs naturel_jax.main, and keeps its exit code.

    A machine that shuts down sends SIGTERM to both processes, and then SIGHUP, since they began in a login session. The
    run must get the first, once (a second one would end it before it has saved), and not the second, whose being
    ignored is inherited.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, which is not inherited
    process = subprocess.Popen([sys.executable, "-m", "naturel_jax.main", "--distributed", *flags], cwd=ROOT)
    replace(PID, str(process.pid))
    code = process.wait()
    replace(STATUS, str(code if code >= 0 else 128 - code))
    return 0


def follow(position: int) -> int:
    """Prints the log from byte ``position`` on until the run has ended; returns its exit code."""
    with LOG.open("rb") as log:
        log.seek(position)
        while True:
            ended = not running()  # looked up first, so that nothing is written after the last read
            sys.stdout.buffer.write(log.read())
            sys.stdout.buffer.flush()
            if ended:
                return int(STATUS.read_text()) if STATUS.exists() else KILLED
            time.sleep(0.2)


def stop() -> int:
    """Sends SIGTERM to the run; returns 2 if there is none."""
    if not PID.exists() or not running():
        print("no run is going on", file=sys.stderr)
        return USER_ERROR
    os.kill(int(PID.read_text()), signal.SIGTERM)
    return 0


def logs(lines: str) -> int:
    """Prints the last lines of the log, each after this machine's name."""
    if not LOG.exists():
        print(f"{socket.gethostname()}: no log yet", file=sys.stderr)
        return 0
    with LOG.open(errors="replace") as log:
        for line in collections.deque(log, int(lines)):
            print(f"{socket.gethostname()}: {line}", end="")
    return 0


VERBS = {"run": run, "keep": keep, "stop": stop, "logs": logs}

if __name__ == "__main__":
    sys.exit(VERBS[sys.argv[1]](*sys.argv[2:]))
