"""A stand-in for a worker of a TPU slice: a home directory with launch/tpu_worker.py and a program that "trains"."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.stub_commands import stub

LAUNCH = Path(__file__).parents[2] / "launch"

# Trains: appends its arguments to the file `starts`, and then does what $TRAINING says.
MAIN = """
import json, os, pathlib, signal, sys, time
with open("starts", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print("training", flush=True)
if os.environ.get("TRAINING") == "until stopped":
    def stop(*_):
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path("ready").touch()
    for _ in range(2000):  # not for ever, should a test fail
        time.sleep(0.05)
sys.exit(int(os.environ.get("STATUS", 0)))
"""


def make_worker(home: Path) -> None:
    """A worker on which the project is installed, as far as the tests need it."""
    project = home / "naturel_jax"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (project / "launch").mkdir()
    shutil.copy(LAUNCH / "tpu_worker.py", project / "launch")
    (project / "naturel_jax").mkdir()
    (project / "naturel_jax" / "__init__.py").touch()
    (project / "naturel_jax" / "main.py").write_text(MAIN)
    (home / ".local").mkdir()
    stub(home / ".local" / "bin", "uv", "")
    subprocess.run(["tar", "czf", home / "naturel_jax.tar.gz", "--files-from", "/dev/null"], check=True)


def starts(home: Path) -> list[list[str]]:
    """The arguments of every start of the run on the worker."""
    path = home / "naturel_jax" / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclasses.dataclass
class Worker:
    """launch/tpu_worker.py on a worker, started with ``arguments``."""

    process: subprocess.Popen
    printed: Path

    def end(self) -> tuple[int, str]:
        """(exit code, what was printed) once it has ended."""
        return self.process.wait(120), self.printed.read_text()


def worker(home: Path, *arguments: str, **environment: str) -> Worker:
    project, printed = home / "naturel_jax", home / f"printed{time.monotonic_ns()}"
    command = [project / ".venv/bin/python", project / "launch/tpu_worker.py", *arguments]
    with printed.open("w") as output:
        env = os.environ | {"HOME": str(home)} | environment
        return Worker(subprocess.Popen(command, env=env, stdout=output, stderr=output), printed)


def start(home: Path) -> Worker:
    """A run that trains until it is stopped, and has begun to."""
    started = worker(home, "run", "call1", "--config", "a b.py", TRAINING="until stopped")
    deadline = time.monotonic() + 120
    while not (home / "naturel_jax" / "ready").exists():
        assert time.monotonic() < deadline and started.process.poll() is None
        time.sleep(0.02)
    return started
