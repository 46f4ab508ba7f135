"""Leases that give one process ownership of a folder, without trust in clocks, host names or process ids."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.storage import leases
from tfds_naturel.common.errors import UserError

# Holds a lease on argv[1] and writes to a file there again and again. argv[2]: boot id of its machine ("": this one),
# argv[3]: seconds by which its clock is ahead.
HOLD = """
import sys, time
from etils import epath
from naturel_jax import storage
from naturel_jax.storage import leases
from tfds_naturel.common import cli

def main(arguments):
    folder, boot, ahead = epath.Path(arguments[0]), arguments[1], float(arguments[2])
    clock = time.time
    time.time = lambda: clock() + ahead
    if boot:
        leases._boot = lambda: boot
    with storage.lease(folder, period_s=1.2):
        print("held", flush=True)
        while True:
            storage.write(folder / "state", str(time.monotonic()))
            time.sleep(0.05)

cli.run(main)
"""


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


@contextlib.contextmanager
def holder(folder, boot: str = "", ahead: float = 0.0):
    arguments = [sys.executable, "-c", HOLD, str(folder), boot, str(ahead)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_lease_names_a_live_holder_and_replaces_a_dead_one_of_this_machine_at_once(folder):
    with holder(folder) as process:
        expected = rf"in use by process {process.pid} on .* since 20.*--workdir"
        with pytest.raises(UserError, match=expected), storage.lease(folder):
            pass
    row = json.loads((folder / "lease.json").read_text())
    (folder / "lease.json").write_text(json.dumps(row | {"process": os.getppid()}))  # its id is used again
    with storage.lease(folder, period_s=1e9) as held, pytest.raises(UserError, match="in use"), storage.lease(folder):
        held.check()
    assert not (folder / "lease.json").exists()


@pytest.mark.parametrize("ahead", [86_400.0, -86_400.0])
def test_no_clock_of_another_machine_counts(ahead, folder, caplog):
    """One that has the same host name, and process ids that run here."""
    with holder(folder, "another", ahead) as process:
        with pytest.raises(UserError, match=f"in use by process {process.pid}"), storage.lease(folder, 60.0):
            pass
        process.send_signal(signal.SIGSTOP)  # with its lock: that of another machine would not be seen
        os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped: it may be renewing
        with caplog.at_level("INFO", leases.__name__), storage.lease(folder, 1.2):
            assert "it is taken over if its lease stays as it is for 1 s: 1 s left" in caplog.text
            assert "for 1 s: 0 s left" in caplog.text
            before = (folder / "state").read_text()
            process.send_signal(signal.SIGCONT)
            _, output = process.communicate(timeout=60)
            assert process.returncode == 2 and "has lost its lease, which process" in output.splitlines()[-1]
            assert (folder / "state").read_text() == before, "it has written nothing since"
            assert json.loads((folder / "lease.json").read_text())["process"] == os.getpid()


def test_owner_that_was_paused_does_not_take_its_lease_back_by_renewing_it(folder, monkeypatch):
    paused = leases.Lease(folder / "lease.json")
    assert paused.create()
    monkeypatch.setattr(leases, "_boot", lambda: "another")
    with storage.lease(folder, period_s=0.1) as held:
        paused.renew()
        held.check()
        with pytest.raises(UserError, match=rf"lost its lease, which process {os.getpid()} on .* holds now"):
            paused.check()
        paused.release()
        held.check()


def test_a_pipe_in_place_of_a_lease_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / leases.NAME)
    with pytest.raises(UserError, match=f"{leases.NAME}: not a regular file"), leases.lease(epath.Path(tmp_path)):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 1}', "\\ud800"])
def test_damaged_lease_is_watched_and_then_replaced(text, folder):
    (folder / "lease.json").write_text(text)
    began = time.monotonic()
    with storage.lease(folder, period_s=0.2) as held:
        held.check()
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("_", range(20))  # one in ten had two holders when a lease was moved to be compared
def test_one_of_several_takes_over(_, folder):
    (folder / "lease.json").write_text('{"token": "t", "host": "elsewhere", "process": 7, "since": 0}')
    together, outcomes, done = threading.Barrier(8), [], threading.Event()

    def take() -> None:
        together.wait()
        try:
            with storage.lease(folder, period_s=0.05):
                outcomes.append("held")
                done.wait(30)
        except UserError:
            outcomes.append("refused")

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(outcomes) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7
    assert not [path.name for path in folder.iterdir()]


def test_a_lock_of_others_on_the_folder_does_not_hold_up_the_end(folder, monkeypatch):
    """``flock DIR COMMAND`` has one, and who may read the folder can have one."""
    monkeypatch.setattr(leases, "_LOCKED_S", 0.1)
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH)
    with storage.lease(folder):
        pass
    os.close(other)
    assert not list(folder.iterdir())


def test_a_forked_child_that_ends_leaves_the_lease(folder):
    code = (
        "import os, sys\nfrom naturel_jax import storage\nfrom etils import epath\n"
        "with storage.lease(epath.Path(sys.argv[1])) as held:\n"
        "    if not (child := os.fork()): sys.exit()\n"
        "    os.waitpid(child, 0); held.check(); print('still held')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout == "still held\n", done.stderr
    assert not list(folder.iterdir())
