"""SIGTERM and Ctrl-C in evaluations, while drawing data, and between the parts of a suite. ``test_training_processes``
has the training loop, ``test_kills`` random moments."""

import contextlib
import http.server
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.checkpoints import checkpoint
from naturel_jax.data import datasets
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.devices import preemption
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.storage import leases, read_json_lines
from naturel_jax.storage.locks import locked
from naturel_jax.training import run
from tests.helpers import benchmark_files, loopback, tiny_config
from tests.helpers.processes import wait_until
from tests.helpers.suite_config import WORLD
from tests.helpers.worlds import ROOT, STOPS_WITHIN, Run, data_dir, wait_for
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import VERSION

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def handled():
    """The handler is installed in this process."""
    preemption.install_handler()
    yield
    importlib.reload(preemption)


class Cut(Exception):
    """An interruption of a test's own."""


def cut_after(calls: int):
    """A check that raises Cut once it has been called more often than ``calls`` times."""
    counted = Counter[str]()

    def check() -> None:
        counted["calls"] += 1
        if counted["calls"] > calls:
            raise Cut

    return check


@pytest.mark.parametrize("number", SIGNALS)
def test_stop_request_stays(number, handled):
    preemption.check()
    assert not preemption.stop_requested()
    signal.raise_signal(number)
    assert preemption.stop_requested() and preemption.stop_requested()
    for _ in range(2):  # the next part of a suite stops as well
        with pytest.raises(Stopped, match="run the same command again to continue"):
            preemption.check()


def test_stopped_process_starts_no_other_run(handled, tmp_path):
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped):
        run.run(c.load(tiny_config.get_config()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_work_of_other_threads_does_not_make_the_main_thread_interruptible(handled, monkeypatch):
    """Two that overlap, so that the one which began first ends first."""
    monkeypatch.setattr(cli, "leave", lambda code: pytest.fail("the process was ended"))
    entered, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def work(n: int) -> None:
        with preemption.interruptible():
            entered[n].set()
            leave[n].wait(60)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread, event in zip(threads, entered, strict=True):
        thread.start()
        assert event.wait(60)
    for thread, event in zip(threads, leave, strict=True):
        event.set()
        thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert preemption.stop_requested()


STUCK = """
import hashlib, importlib, signal, sys
from naturel_jax.devices import preemption
from naturel_jax.storage.locks import locked
from tfds_naturel.common import cli

def library(lock):
    with preemption.interruptible():
        endless()

def endless(*arguments, **further):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # half an hour

def told_twice(lock):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    endless()

def command(path):
    # of which a function does not return
    module, _, name = path.rpartition(".")
    setattr(importlib.import_module(module), name, endless)
    importlib.import_module(f"naturel_jax.{sys.argv[3]}").main(sys.argv[4:])

def lock(lock):
    print("ready", flush=True)
    with locked(lock):
        raise AssertionError("another process holds it")

def main(arguments):
    if arguments[0] != "command":
        preemption.install_handler()
    globals()[arguments[0]](arguments[1])

cli.run(main)
"""


@contextlib.contextmanager
def stuck(*arguments: str) -> Iterator[subprocess.Popen]:
    """A process of ``STUCK`` that does not return by itself."""
    command = [sys.executable, "-c", STUCK, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            while (line := process.stdout.readline()) != "ready\n":
                assert line, f"ended with {process.wait()}"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("work", ["library", "lock"])
def test_stop_ends_work_that_does_not_return(work, tmp_path):
    with locked(path := str(tmp_path / "lock")), stuck(work, path) as process:
        process.terminate()
        assert process.wait(300) == cli.STOPPED


def test_a_second_signal_kills_if_it_comes_later_than_a_second():
    """A service manager's comes twice: to the process, and through its parent."""
    with stuck("told_twice", "") as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert process.wait() == -signal.SIGKILL


TINY = f"--config={ROOT}/tests/helpers/tiny_config.py"
READ = "naturel_jax.benchmarks.registry.read"
READING = {
    "evaluate": (READ, "--models=m", "--out"),
    "main": (READ, TINY, "--config.data.dir={data}", "--workdir"),
    "sweep": (READ, TINY, "--config.data.dir={data}", "--score=naturel/simple", "--out"),
    "reproduce.__main__": ("naturel_jax.reproduce.preview.check_disks", "--workdir"),
}


@pytest.mark.parametrize("command", READING)
def test_stop_while_a_command_looks_at_its_files_ends_it_at_once(command, tmp_path):
    path, *flags = (text.format(data=data_dir()) for text in READING[command])
    with stuck("command", path, command, *flags, str(tmp_path / "out")) as process:
        process.terminate()
        assert process.wait(60) == cli.STOPPED


def test_work_that_cannot_be_stopped_is_left_behind(handled):
    finished = threading.Event()
    assert preemption.abandonable(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        preemption.abandonable(lambda: 1 // 0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped):
        preemption.abandonable(lambda: finished.wait(600))
    assert not finished.is_set()
    finished.set()


def test_without_the_handler_signals_keep_their_meaning():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    preemption.check()
    assert not preemption.stop_requested()


def test_evaluation_stops_between_batches(handled):
    model, read = preset("tiny-clip"), []

    def image(number: int, data: bytes) -> Image:
        def read_bytes() -> bytes:
            read.append(number)
            if number == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return data

        return Image(f"{number}", read_bytes)

    encoder = Encoder(Model(model), from_scratch(model, ["a cat"]), batch_size=16)
    with pytest.raises(Stopped):
        encoder.images({}, [image(n, benchmark_files.png(n)) for n in range(1000)])
    assert len(read) < 100  # one batch, and what was prefetched


def test_twins_interrupted_at_any_item_are_then_complete(tmp_path):
    def content(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    twins.write(whole, WORLD, 0, 2)
    for calls in (1, 3, 9):
        with pytest.raises(Cut):
            twins.write(cut, WORLD, 0, 2, cut_after(calls))
        assert not (cut / "README.md").exists()
    twins.write(cut, WORLD, 0, 2)
    assert content(cut) == content(whole)


def test_only_one_process_writes_data_and_one_that_waits_can_be_stopped(tmp_path, handled, caplog):
    folder = tmp_path / "twins" / "scenes" / VERSION
    folder.mkdir(parents=True)
    holder = {"token": "t", "host": "elsewhere", "process": 7, "since": time.time()}
    (folder / "lease.json").write_text(json.dumps(holder))
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped), caplog.at_level("INFO", leases.__name__):
        datasets.twins_directory(str(tmp_path), "scenes")
    assert [path.name for path in folder.iterdir()] == ["lease.json"]
    assert "held by process 7 on elsewhere" in caplog.text


def test_stop_while_drawing_ends_the_run(tmp_path):
    drawing = Run(tmp_path / "run", config=f"suite_config.py:{tmp_path}/data")
    parts = tmp_path / "data" / "naturel" / WORLD.name
    wait_for(drawing, lambda: [*parts.glob("incomplete*")])
    drawing.process.terminate()
    assert drawing.wait() == cli.STOPPED, drawing.output()
    assert not [*parts.iterdir()] and "Traceback" not in drawing.output()


@contextlib.contextmanager
def silent_hub() -> Iterator[tuple[dict[str, str], list[str]]]:
    """The environment of processes that ask a hub which does not answer, and what they have asked for."""
    requests = list[str]()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            time.sleep(60)

        do_HEAD = do_GET

    with loopback.running(Silent) as address:
        yield {"HF_ENDPOINT": address, "HF_HUB_DOWNLOAD_TIMEOUT": "60"}, requests


def test_stop_while_downloading_ends_the_run_at_once_and_leaves_no_lease(tmp_path):
    with silent_hub() as (hub, requests):
        run = Run(tmp_path / "run", "--config.preset=", "--config.init=hf:owner/tiny", env=hub)
        wait_for(run, lambda: requests)
        run.process.terminate()
        assert run.wait() == cli.STOPPED, run.output()  # not 2, as after waiting for the silent hub
    assert "Traceback" not in run.output() and not (tmp_path / "run" / "lease.json").exists()


def test_stop_while_a_model_is_downloaded_to_embed_a_pool_ends_it_at_once(tmp_path):
    (tmp_path / "0.png").write_bytes(benchmark_files.png(0))
    flags = ["--model=hf:owner/tiny", f"--source=folder:{tmp_path}", f"--out={tmp_path}/pool"]
    with silent_hub() as (hub, requests):
        command = [sys.executable, "-m", "naturel_jax.embed", *flags]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | hub) as process:
            wait_until(lambda: requests or process.poll() is not None)
            process.terminate()
            assert process.wait(300) == cli.STOPPED  # not 2, as after waiting for the silent hub


@pytest.mark.slow
@pytest.mark.parametrize("line", ["Finished tracing", "Finished jaxpr to MLIR"])
def test_stop_while_the_step_is_compiled_ends_the_run_before_it_is(line, tmp_path):
    """From the first line, JAX lowers the step; from the second, XLA compiles it."""
    data = f"--config.data.dir={data_dir()}"
    slowly = {"JAX_LOG_COMPILES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    compiling = Run(tmp_path / "run", data, config="deep_config.py", env=slowly)
    wait_for(compiling, lambda: re.search(rf"{line}.* (jit\()?step\b", compiling.output()))
    time.sleep(2)
    began = time.monotonic()
    compiling.process.terminate()
    assert compiling.wait() == cli.STOPPED, compiling.output()
    took = time.monotonic() - began
    assert took < STOPS_WITHIN
    print(f"seen: stopped after {took:.1f} s")
    assert not re.search(r"Finished XLA compilation of (jit\()?step\b", compiling.output())
    assert "Traceback" not in compiling.output() and not (tmp_path / "run" / "lease.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluation", "step"),
    [pytest.param(1, 0, marks=pytest.mark.proof), pytest.param(2, 10, marks=pytest.mark.proof), (3, 20)],
)
def test_stop_in_an_evaluation_keeps_all_steps_and_the_evaluation_is_made_once(evaluation, step, tmp_path):
    data = f"--config.data.dir={data_dir()}"
    first = Run(tmp_path / "run", data, config=f"stopped_config.py:{evaluation}")
    assert first.wait() == cli.STOPPED, first.output()
    assert checkpoint.saved_steps(tmp_path / "run") == ([10] if step == 10 else [15, 20] if step == 20 else [])
    assert not (tmp_path / "run" / "scores.json").exists()
    second = Run(tmp_path / "run", data, config="stopped_config.py:99").finish()
    assert (f"from step {step}" in second) == (step > 0)
    rows = read_json_lines(epath.Path(tmp_path) / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 21))
    assert [row["step"] for row in rows if "naturel/simple" in row] == [0, 10, 20]
    shutil.rmtree(tmp_path)
