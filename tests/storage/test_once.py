"""What is made once: by one of several processes, again after a kill, and not without an end to waiting."""

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from naturel_jax.storage import once
from naturel_jax.storage.locks import locked
from tests.helpers import processes
from tfds_naturel.common.errors import UserError

ROOT = Path(__file__).parents[2]
MAKE = """
import logging, pathlib, sys, threading
from naturel_jax.devices import preemption
from naturel_jax.storage import once
def make():
    print("making", flush=True)
    threading.Event().wait()
logging.basicConfig(level=logging.INFO)
preemption.install_handler()
once.load_or_make(pathlib.Path(sys.argv[1]), lambda: None, make)
"""


@contextlib.contextmanager
def making(folder: Path) -> Iterator[subprocess.Popen]:
    """A process that makes what is in ``folder``, without an end, once it may."""
    command, env = [sys.executable, "-c", MAKE, str(folder)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_wait_ends_with_a_signal_or_with_the_process_that_is_waited_for(tmp_path):
    with making(tmp_path) as first, making(tmp_path) as second:
        both = {first.stdout: first, second.stdout: second}
        (ready,), _, _ = select.select(list(both), [], [], processes.LIMIT_S)
        assert ready.readline() == "making\n"
        maker = both.pop(ready)
        (waiting,) = both.values()
        assert f"waiting for another process of this host, which holds {tmp_path}/lock" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait() == 75
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
            raise AssertionError("locked twice")
        maker.send_signal(signal.SIGKILL)
        with locked(tmp_path / "lock"):
            assert list(tmp_path.iterdir()) == [tmp_path / "lock"]


def test_one_makes_and_the_others_load(tmp_path):
    """Threads stand for processes: each opens the lock anew."""
    made, found, started = [], [], threading.Event()

    def make() -> dict:
        made.append(1)
        started.wait(10)
        once.write_meta(tmp_path / "a/b", {"by": len(made)})
        return {"by": len(made)}

    def run() -> None:
        found.append(once.load_or_make(tmp_path / "a/b", functools.partial(once.read_meta, tmp_path / "a/b"), make))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    assert made == [1] and found == [{"by": 1}] * 3


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678content"])
def test_a_damaged_block_is_not_whole(content, tmp_path, caplog):
    path = tmp_path / "block"
    assert not once.is_whole(once.read_block, path) and not caplog.text
    once.write_block(path, b"content")
    assert once.is_whole(once.read_block, path) and once.read_block(path) == b"content"
    path.write_bytes(content)
    assert not once.is_whole(once.read_block, path)
    assert f"{path} is damaged: it does not have its checksum; making it again" in caplog.text


@pytest.mark.parametrize("read", [once.checksum, once.read_block])
def test_pipes_are_not_waited_for(read, tmp_path):
    """Nor are devices read without end: a folder of results may come from elsewhere."""
    os.mkfifo(tmp_path / "a.rows")
    with pytest.raises(UserError, match=r"a\.rows: not a regular file"):
        read(tmp_path / "a.rows")
