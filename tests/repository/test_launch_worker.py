"""launch/tpu_worker.py: runs that outlive the connection, with a stand-in for training."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.tpu_workers import make_worker, start, starts, worker
from tfds_naturel.common import cli


@pytest.fixture
def home(tmp_path):
    """A worker, on which no run is left when the test ends."""
    make_worker(tmp_path / "worker")
    yield tmp_path / "worker"
    worker(tmp_path / "worker", "stop").end()


def test_a_run_outlives_the_connection_and_can_be_followed(home):
    lost = start(home)
    lost.process.kill()
    lost.end()
    followers = [worker(home, "run", call, "--config", "a b.py") for call in ("call1", "call2")]
    code, printed = worker(home, "run", "call3", "--config", "c.py").end()
    assert code == cli.USER_ERROR and "another run is going on, with the flags ['--config', 'a b.py']" in printed
    deadline = time.monotonic() + 120
    while not all(follower.printed.read_text() for follower in followers):  # of the log
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert worker(home, "stop").end()[0] == 0
    # Also those whose connection is lost until the end.
    followers += [worker(home, "run", call, "--config", "a b.py") for call in ("call1", "call2")]
    for follower in followers:
        assert follower.end() == (cli.STOPPED, "training\nsaved\n")
    code, printed = worker(home, "stop").end()
    assert code == cli.USER_ERROR and "no run is going on" in printed
    assert worker(home, "run", "call4", "--config", "a b.py", STATUS="1").end() == (1, "training\n")
    assert starts(home) == [["--distributed", "--config", "a b.py"]] * 2


def test_a_shutdown_of_the_machine_lets_the_run_save(home):
    """SIGTERM to all processes of the session, then SIGHUP, as systemd sends to those of a login session."""
    follower = start(home)
    run = int((home / "naturel_run" / "pid").read_text())
    keeper = int(Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[1])
    assert os.getsid(run) == keeper != os.getsid(follower.process.pid)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        for process in (keeper, run):
            os.kill(process, number)
    assert follower.end() == (cli.STOPPED, "training\nsaved\n")


def test_a_run_that_is_killed(home):
    follower = start(home)
    os.kill(int((home / "naturel_run" / "pid").read_text()), signal.SIGKILL)
    assert follower.end()[0] == 128 + signal.SIGKILL
