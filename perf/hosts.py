"""What grows with the number of hosts: starts of real processes, and one host of many that are not here.

    python -m perf.hosts start --processes 1 2 4 8
    python -m perf.hosts one --hosts 256 --rows 1e5 1e7 --folder build/rows
    python -m perf.hosts prepared

``start`` trains a tiny model in each number of processes, each a host with one device and caches of its own; workdir
and data are in a store on loopback, which counts requests. Each run is started a second time from its checkpoint.
``one`` opens the index of each number of rows, plans batches for all hosts and loads its own share of the images.
``prepared`` opens a dataset that TFDS wrote, for the first time and again.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from etils import epath

from naturel_jax import config
from naturel_jax.checkpoints import manifest
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import embedded
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from naturel_jax.storage import object_folders
from naturel_jax.storage.object_stores import Location
from perf.planner import bank_items
from perf.sources import memory, write_rows
from tests.helpers import store_config, store_servers
from tfds_naturel.common import cli
from tfds_naturel.scenes.scene import CONFIGS

ROOT = Path(__file__).parents[1]

# ---- Real processes --------------------------------------------------------------------------------------------------

STEPS, EVERY = 6, 2  # of tests/helpers/store_config.py: steps, and steps between checkpoints
# All programs are kept, however little time they take to compile, and that is little: cores are few.
KEPT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Start(NamedTuple):
    """A start of a run: seconds until the first step is logged; processor seconds and peak memory (MB) of the first
    host and, the most, of the others; requests until then, and those for each checkpoint."""

    seconds: float
    processor: float
    others_processor: float
    memory: float
    others_memory: float
    requests: int
    saved: float


def asked(requests: Sequence[str]) -> list[str]:
    """The requests without further pages of a listing: the server's have three names, those of a store a thousand."""
    return [request for request in requests if "pageToken" not in request]


def launch(count: int, folder: Path, server: store_servers.Server) -> list[subprocess.Popen]:
    """Starts a run in ``count`` processes, each with a folder for its caches and a log in ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [
        f"--config={ROOT}/tests/helpers/store_config.py:{server.url}/data",
        f"--workdir={server.url}/runs/{folder.name}",
    ]
    flags += ["--config.eval.benchmarks=()", "--config.tensorboard=False", f"--config.data.batch_size={6 * count}"]
    flags += [f"--coordinator={address}", f"--processes={count}", "--cpu_devices=1"]
    running = []
    for number in range(count):
        cache = folder / str(number)
        cache.mkdir(parents=True, exist_ok=True)
        paths = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
        env = os.environ | server.env | KEPT | paths | {"JAX_COMPILATION_CACHE_DIR": f"{cache}/compiled"}
        with (folder / f"{number}.log").open("w") as output:
            command = [sys.executable, "-m", "naturel_jax.main", *flags, f"--process={number}"]
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output))
    return running


def start(count: int, folder: Path, server: store_servers.Server) -> Start:
    """Runs ``count`` processes to their end."""
    began, before, log = time.monotonic(), len(server.requests), folder / "0.log"
    running = launch(count, folder, server)
    try:
        while not (stepped := re.search(r" step (\d+) of ", log.read_text())) and running[0].poll() is None:
            time.sleep(0.05)
        if not stepped:
            raise RuntimeError(f"a process failed: {log.read_text()[-2000:]}")
        seconds, until = time.monotonic() - began, len(server.requests)
        ended = [os.wait4(process.pid, 0)[1:] for process in running]
        if any(status for status, _ in ended):
            raise RuntimeError(f"a process failed: {log.read_text()[-2000:]}")
    finally:
        for process in running:
            process.kill()
    peaks = [usage.ru_maxrss / 1024 for _, usage in ended]
    processor = [usage.ru_utime + usage.ru_stime for _, usage in ended]
    others = max(processor[1:], default=0), peaks[0], max(peaks[1:], default=0)
    saves = [request for request in asked(server.requests[until:]) if "/checkpoints" in request.replace("%2F", "/")]
    checkpoints = (STEPS + 1 - int(stepped[1])) / EVERY
    return Start(seconds, processor[0], *others, len(asked(server.requests[before:until])), len(saves) / checkpoints)


def measure_starts(counts: Sequence[int]) -> None:
    """Prints one line for each start."""
    print(f"{'':18}{'seconds':>12}{'processor, s':>24}{'memory, MB':>24}{'requests':>24}")
    columns = ("to step", *("first", "others") * 2, "to step", "checkpoint")
    print(f"{'processes':>10}{'start':>8}" + "".join(f"{name:>12}" for name in columns), flush=True)
    CONFIGS[store_config.WORLD.name] = store_config.WORLD
    with tempfile.TemporaryDirectory() as temporary, store_servers.serve("gs") as server:
        with mock.patch.dict(os.environ, server.env):  # draws the data
            datasets.directory(f"{server.url}/data", f"naturel/{store_config.WORLD.name}", f"{temporary}/drawn")
        for count in counts:
            folder = Path(temporary) / f"of{count}"
            for name in ("first", "second"):
                cells = start(count, folder, server)
                print(f"{count:10}{name:>8}" + "".join(f"{x:12,.0f}" for x in cells), flush=True)
                with mock.patch.dict(os.environ, server.env):  # as if it had been killed after the second checkpoint
                    run = epath.Path(server.url) / "runs" / folder.name
                    Location(run / "scores.json").delete()
                    object_folders.remove(run / "checkpoints" / str(STEPS), first=manifest.NAME)


# ---- One host of many ------------------------------------------------------------------------------------------------

_opened: list[int] = []  # one for each file


def _record_opens(folder: Path) -> None:
    """Counts the files of ``folder`` that this process opens from now on."""
    part = str(folder)
    sys.addaudithook(lambda event, what: _opened.append(1) if event == "open" and part in str(what[0]) else None)


@contextlib.contextmanager
def measured(what: str) -> Iterator[None]:
    """Prints seconds, those of processors, files opened, bytes read and memory, of which pages of files are a part."""
    files, read, began, processor = len(_opened), _bytes_read(), time.perf_counter(), time.process_time()
    yield
    seconds, used, now = time.perf_counter() - began, time.process_time() - processor, memory()
    print(
        f"  {what:38}{seconds:8.2f} s, {used:6.2f} s of processors; {len(_opened) - files:4,} files opened, "
        f"{(_bytes_read() - read) / 1e6:7,.1f} MB read; memory {now['VmRSS']:,.0f} MB, {now['RssFile']:,.0f} of files",
        flush=True,
    )


def _bytes_read() -> int:
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def measure_rows(rows: int, folder: Path, hosts: int, devices: int, batches: Sequence[int]) -> None:
    """Prints what one of ``hosts``, each with ``devices``, does with ``rows`` records."""
    _record_opens(folder)
    path, model = write_rows(folder, rows), preset("tiny-clip")
    print(f"{rows:,} records, host {hosts // 2} of {hosts}, {devices} devices each; {memory()['VmRSS']:,.0f} MB before")
    with measured("index opened"):
        source = datasets.open_source(f"jsonl:{path}", str(folder), "train")
    processor = from_scratch(model, source.items.texts[:1000])
    raw = config.base()
    raw.preset, raw.data.mixture.main = "tiny-clip", config.part("rows", "one_pair")
    whole = make_pipeline(config.load(raw), [source], model, processor, make_mesh({"data": -1}))
    own = [(slice(n, n + 1),) for n in range(hosts // 2 * devices, (hosts // 2 + 1) * devices)]
    sharding: Any = SimpleNamespace(addressable_devices_indices_map=lambda shape: dict(enumerate(own)))
    planner = functools.partial(Planner, processor=processor, shards=hosts * devices, seed=0, trim_eos=None)
    for batch in batches:
        of_rows = planner([MixturePart(source.items, recipe("one_pair"))], batch_size=batch)
        with measured(f"plan of {batch:,}, all captions new"):
            of_rows.plan(0)
        with measured("the same with the host's own images"):
            next(dataclasses.replace(whole, planner=of_rows, sharding=sharding).local_batches(1, 2))
    _measure_embeddings(rows, folder / "embeddings")
    items = bank_items(rows)
    for batch in batches:
        (of_bank := planner([MixturePart(items, recipe("single_pair"))], batch_size=batch)).plan(0)
        with measured(f"plan of {batch:,}, the bank's captions"):
            of_bank.plan(1)


def _measure_embeddings(rows: int, folder: Path, dim: int = 512) -> None:
    """The check of embeddings at a start: of as many as 100,000 images have."""
    rows = min(rows, 100_000)
    folder.mkdir(exist_ok=True)
    for block, size in enumerate(sizes := embedded.block_sizes(rows)):
        embedded.write(folder, block, np.zeros((size, 2, dim), np.float32))
    with measured(f"embeddings of {rows:,} checked"):
        for block, size in enumerate(sizes):
            embedded.check(folder, block, (size, 2, dim))
    shutil.rmtree(folder)


def measure_prepared(data_dir: Path) -> None:
    """Prints what opening a prepared dataset takes, the first time and later."""
    _record_opens(data_dir)
    name = "naturel/scenes"
    datasets.directory(str(data_dir), name)
    shutil.rmtree(data_dir / ".cache", ignore_errors=True)
    for when in ("first", "second"):
        with measured(f"12,000 prepared images, {when} time"):
            assert len(datasets.open_source(name, str(data_dir), "train").items) == 12_000


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    real = commands.add_parser("start")
    real.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    one = commands.add_parser("one")
    one.add_argument("--hosts", type=int, default=256)
    one.add_argument("--devices", type=int, default=4, help="of each host")
    one.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e7])
    one.add_argument("--batches", type=int, nargs="+", default=[16384, 65536])
    one.add_argument("--folder", type=Path, default=Path("build/rows"))
    one.add_argument("--opened", action="store_true", help="only measure, in this process; the index is there")
    prepared = commands.add_parser("prepared")
    prepared.add_argument("--folder", type=Path, default=Path("build/scenes"))
    options = parser.parse_args(arguments)
    if options.command == "start":
        return measure_starts(options.processes)
    if options.command == "prepared":
        return measure_prepared(options.folder)
    for rows in map(int, options.rows):
        if options.opened:
            measure_rows(rows, options.folder, options.hosts, options.devices, options.batches)
            continue
        datasets.open_source(f"jsonl:{write_rows(options.folder, rows)}", str(options.folder), "train")
        command = [sys.executable, "-m", "perf.hosts", *arguments, "--opened", f"--rows={rows}"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return None


if __name__ == "__main__":
    cli.run(main)
