"""Long runs of a tiny model, watched for leaks or disturbed by faults.

    python -m proofs.soak steady --minutes 60
    python -m proofs.soak faults --minutes 60 --seed 0

``steady`` trains, evaluates and saves in one process, and samples its memory, descriptors and threads.
TensorStore leaks in each save (``save_memory.py`` measures how much) and is kept from it here (``watched.py``), so that
other leaks show.

``faults`` trains the same run over and over, each time in a new workdir, until it is finished. Most starts meet a
fault: a signal at a random time (SIGKILL, SIGTERM), or a disk that fails, fills up or is slow (``faults.c``, loaded
with LD_PRELOAD; faults occur in the workdir only). After each run, all that it wrote must equal the uninterrupted run.

Both print a table, and exit with 1 if anything in it is not as promised in docs/reliability.md.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging as absl_logging
from etils import epath

from naturel_jax.storage import read_json, read_json_lines
from naturel_jax.weights import runs
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

ROOT = Path(__file__).parents[1]
STUCK_S = 600.0  # allowed for one start of 10 s, and for its end after a signal: machines may be busy


# ---- Runs ------------------------------------------------------------------------------------------------------------


def draw_world(folder: Path) -> None:
    """Draws the dataset naturel/tiny, which tests/helpers/tiny_config.py trains on."""
    tiny = dataclasses.replace(CONFIGS["scenes"], name="tiny", sizes=(200, 40, 40, 40))
    absl_logging.set_verbosity(absl_logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        Naturel(config=scenes(tiny), data_dir=os.fspath(folder)).download_and_prepare()


class Process:
    """``module``, a ``naturel_jax.main``, on the tiny config in ``workdir``; its output goes to ``log``."""

    def __init__(
        self,
        data: Path,
        workdir: Path,
        log: Path,
        *flags: str,
        module: str = "naturel_jax.main",
        environment: Mapping[str, str] | None = None,
    ):
        command = [sys.executable, "-m", module, f"--config={ROOT}/tests/helpers/tiny_config.py"]
        command += [f"--config.data.dir={data}", f"--workdir={workdir}", "--config.tensorboard=True", *flags]
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{data}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
        variables = {**os.environ, **cache, "PYTHONFAULTHANDLER": "1", **(environment or {})}
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=file)
        self.pid = self._process.pid

    def output(self) -> str:
        """The output so far."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> int | None:
        """The exit code; None if the process is still running after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def abort(self) -> None:
        """Ends a stuck process; the stacks of its threads are in its output."""
        self.send(signal.SIGABRT)
        if self.wait(30) is None:
            self.send(signal.SIGKILL)
            self._process.wait()


def table(rows: Mapping[str, object]) -> str:
    """A Markdown table of two columns, with the date first."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(f"| {name} | {value} |" for name, value in {"Date": date, "---": "---", **rows}.items())


# ---- Steady ----------------------------------------------------------------------------------------------------------

TOLERANCE = 0.02
EVALUATE, SAVE = 20, 200  # steps; save_memory.py measures what a save leaves in memory
SAMPLE_S = 1.0
WARM_UP = 250  # steps: several evaluations and a save
WARM_UP_S = 3600.0  # at most


class Sample(NamedTuple):
    """Seconds since the start, memory in MB, open descriptors, threads. ``resident`` is anonymous
    memory only: the kernel drops pages of files when others need memory, and reads them again later."""

    seconds: float
    allocated: float
    resident: float
    descriptors: int
    threads: int


def sample(pid: int, began: float, watched: Path) -> Sample:
    """The current figures of a process that writes to ``watched``. Raises OSError if it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident, threads = (
        int(re.findall(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[0]) for name in ("RssAnon", "Threads")
    )
    allocated = int(watched.read_text().rpartition("\n")[0].rpartition("\n")[2])  # the last whole line
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic() - began, allocated / 2**20, resident / 2**10, descriptors, threads)


def growth(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Growth over the second half of the samples, relative to their mean: a line fitted to the lowest value of each
    tenth, since evaluations and saves come and go, and a leak stays."""
    half = len(values) // 2
    tenths = np.array_split(np.arange(half, len(values)), min(10, len(values) - half))
    x = [np.mean(np.asarray(seconds)[tenth]) for tenth in tenths]
    y = [np.min(np.asarray(values, float)[tenth]) for tenth in tenths]
    return float(np.polyfit(x, y, 1)[0] * (seconds[-1] - seconds[half]) / np.mean(y))


def steps(metrics: epath.Path) -> int:
    """Steps logged so far."""
    return sum("train/loss" in row for row in read_json_lines(metrics))


def steady(folder: Path, minutes: float) -> int:
    """Runs for ``minutes`` after warming up and prints the table; returns 1 if allocated memory, descriptors or threads
    grow."""
    data, workdir, log, watched = (folder / name for name in ("data", "steady", "steady.log", "watched.txt"))
    draw_world(data)
    flags = [f"--config.eval.during.naturel={EVALUATE} steps", f"--config.checkpoint.every={SAVE} steps"]
    flags += ["--config.duration=1e9 steps", "--config.checkpoint.keep=2"]
    environment = {"WATCHED": f"{watched}", "PYTHONMALLOC": "malloc"}
    process = Process(data, workdir, log, *flags, module="proofs.watched", environment=environment)
    metrics = epath.Path(workdir) / "metrics.jsonl"
    began = time.monotonic()
    while process.wait(SAMPLE_S) is None and steps(metrics) < WARM_UP and time.monotonic() - began < WARM_UP_S:
        pass
    began, samples, before = time.monotonic(), list[Sample](), steps(metrics)
    while (code := process.wait(SAMPLE_S)) is None and time.monotonic() - began < 60 * minutes:
        samples.append(sample(process.pid, began, watched))
    taken = steps(metrics) - before
    if code is None:
        process.send(signal.SIGTERM)
        if (code := process.wait(STUCK_S)) is None:
            process.abort()
    if len(samples) < 4:
        print(f"{len(samples)} samples, exit code {code}:\n{process.output()[-3000:]}")
        return 1
    figures: dict[str, object] = {
        "Duration": f"{samples[-1].seconds / 60:.1f} min after {before} steps of warm-up",
        f"Steps, with an evaluation every {EVALUATE} and a save every {SAVE}": taken,
        "Exit code after SIGTERM": f"{code} (expected {cli.STOPPED})",
    }
    failed = code != cli.STOPPED or not taken
    for name, unit in (("allocated", " MB"), ("resident", " MB"), ("descriptors", ""), ("threads", "")):
        values = [getattr(s, name) for s in samples]
        grown = growth([s.seconds for s in samples], values)
        failed |= grown > TOLERANCE and name != "resident"  # malloc keeps more or less of what was returned to it
        half = values[len(values) // 2 :]
        figures[name.capitalize()] = (
            f"{np.mean(half):,.0f}{unit} in the second half, {min(half):,.0f} to {max(half):,.0f}; growth {grown:+.2%}"
        )
    print(table(figures | {"Verdict": "FAILED" if failed else f"flat within {TOLERANCE:.0%}"}))
    if code != cli.STOPPED:
        print(process.output()[-3000:])
    return int(failed)


# ---- Faults ----------------------------------------------------------------------------------------------------------

STEPS = 40
FAULTY_STARTS = 10  # of a run; those after them meet no fault
SPEED = {"train/images_per_s", "train/mfu", "wall_time"}

STOP_S = 10  # most seconds from SIGTERM to the end, on a disk that is not slow
DISK_FAULTS = (None, "eio", "lost", "full", "short", "slow")
SIGNALS = (None, signal.SIGKILL, signal.SIGTERM)


def compile_shim(file: Path) -> None:
    """Compiles ``faults.c``. Raises UserError if there is no C compiler."""
    if (compiler := shutil.which("gcc")) is None:
        raise UserError("gcc not found; it is needed to compile proofs/faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", file, ROOT / "proofs" / "faults.c"], check=True)


class Fault(NamedTuple):
    """What happens to one start: a signal after ``seconds``, and the environment of ``faults.c``."""

    number: signal.Signals | None
    seconds: float
    environment: dict[str, str]


def draw_fault(rng: random.Random, folder: Path, shim: Path, log: Path, seconds: float) -> Fault:
    """Draws a fault. ``seconds``: how long an undisturbed start takes."""
    kind, number = rng.choice(DISK_FAULTS), rng.choice(SIGNALS)
    disk = {
        "LD_PRELOAD": f"{shim}",
        "FAULTS_KIND": kind or "",
        "FAULTS_FOLDER": f"{folder}",
        "FAULTS_LOG": f"{log}",
        "FAULTS_SEED": f"{rng.getrandbits(63)}",
        "FAULTS_CHANCE": f"{10 ** rng.uniform(-3.5, -1)}",
        "FAULTS_AFTER": f"{int(10 ** rng.uniform(0, 3))}",
    }
    return Fault(number, rng.uniform(0, seconds), disk if kind else {})


@dataclasses.dataclass
class Tally:
    """Counts over all runs. ``messages``: the last line of each start that was refused or crashed."""

    ended: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    injected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    messages: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)
    finished: int = 0
    wrong: int = 0
    blocked: int = 0
    set_aside: int = 0
    noisy: int = 0
    slowest_stop: float = 0.0


def outcome(code: int | None) -> str:
    """How a start ended."""
    names: dict[int | None, str] = {
        cli.DONE: "finished",
        cli.STOPPED: "stopped and saved",
        cli.USER_ERROR: "refused in one line",
    }
    names |= {-signal.SIGKILL: "killed", -signal.SIGTERM: "terminated before it began", None: "stuck"}
    return names.get(code, "crashed")


def start_once(process: Process, fault: Fault, tally: Tally) -> str:
    """Lets one start meet its fault; returns how it ended."""
    code = process.wait(fault.seconds if fault.number else STUCK_S)
    if code is None and fault.number:
        process.send(fault.number)
        began = time.monotonic()
        code = process.wait(STUCK_S)
        if fault.number == signal.SIGTERM:
            tally.slowest_stop = max(tally.slowest_stop, took := time.monotonic() - began)
            if took > STOP_S and fault.environment.get("FAULTS_KIND") != "slow":
                tally.problems.append(f"stopped {took:.1f} s after SIGTERM, more than {STOP_S}")
    if code is None:
        process.abort()
    ended, output = outcome(code), process.output()
    tally.ended[ended] += 1
    tally.noisy += "Traceback (most recent call last)" in output
    if ended in ("crashed", "refused in one line"):
        tally.messages[f"{ended}: {message(output)}"] += 1
    return ended


def message(output: str) -> str:
    """The error that a start ended with, without what differs from run to run."""
    lines = [line for line in output.splitlines() if line.strip()] or [""]
    ours = [line for line in lines if line.startswith("naturel_jax.main: error: ")]
    return re.sub(r"/\S*/(?=\S)|[0-9a-f]{32}|\d+", "~", (ours or lines)[-1])[:300]


def one_run(data: Path, folder: Path, shim: Path, rng: random.Random, seconds: float, tally: Tally) -> Path | None:
    """Starts a run in a new workdir until it is finished; returns the workdir, or None if it cannot be finished."""
    workdir = folder / "run"
    folder.mkdir()
    for number in range(FAULTY_STARTS + 5):
        log, faults = folder / f"{number}.log", folder / f"{number}.faults"
        fault = draw_fault(rng, workdir, shim, faults, seconds)
        if number >= FAULTY_STARTS:
            fault = Fault(None, 0.0, {})
        process = Process(data, workdir, log, f"--config.duration={STEPS} steps", environment=fault.environment)
        ended = start_once(process, fault, tally)
        if faults.exists():
            tally.injected.update(" ".join(line.split()[:2]) for line in faults.read_text().splitlines())
        if ended in ("crashed", "stuck"):
            tally.problems.append(f"{ended} in {log}")
        if ended == "finished":
            tally.finished += 1
            return workdir
        if number >= FAULTY_STARTS and ended != "crashed":
            break  # nothing is wrong with the disk any more
    tally.blocked += 1
    tally.problems.append(f"cannot be continued although the fault is gone: {log}")
    return None


def differences(workdir: Path, reference: Path) -> list[str]:
    """What differs from the uninterrupted run: logged values (but for speed), scores, parameters, bit for bit."""

    def lines(folder: Path) -> list[dict[str, object]]:
        rows = read_json_lines(epath.Path(folder) / "metrics.jsonl")
        return [{name: value for name, value in row.items() if name not in SPEED} for row in rows]

    def scores(folder: Path) -> object:
        return read_json(epath.Path(folder) / "scores.json")["scores"]

    def arrays(folder: Path) -> dict[str, bytes]:
        leaves = jax.tree_util.tree_leaves_with_path(runs.load_run(str(folder))[1])
        return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}

    return [read.__name__ for read in (lines, scores, arrays) if read(workdir) != read(reference)]


def check(workdir: Path, reference: Path, tally: Tally) -> None:
    """Compares a finished run with the uninterrupted one, and removes it if all runs have been well so far."""
    if aside := [path.name for path in workdir.glob("checkpoints/*.broken*")]:
        tally.set_aside += len(aside)
        tally.problems.append(f"sound checkpoints set aside in {workdir}: {', '.join(aside)}")
    if different := differences(workdir, reference):
        tally.wrong += 1
        tally.problems.append(f"{', '.join(different)} of {workdir} differ from {reference}")
    if not tally.problems:
        shutil.rmtree(workdir.parent)


def faults(folder: Path, minutes: float, seed: int) -> int:
    """Repeats a run under faults for ``minutes`` and prints the table; returns 1 if a promise was broken."""
    data, reference, shim = folder / "data", folder / "reference", folder / "faults.so"
    draw_world(data)
    compile_shim(shim)
    seconds = 0.0
    for workdir in (folder / "compile", reference):  # the second finds the programs that the first compiled
        began = time.monotonic()
        process = Process(data, workdir, workdir.with_suffix(".log"), f"--config.duration={STEPS} steps")
        if process.wait(1200) != cli.DONE:
            print(process.output()[-3000:])
            return 1
        seconds = time.monotonic() - began
    rng, tally, began, number = random.Random(seed), Tally(), time.monotonic(), 0
    while number == 0 or time.monotonic() - began < 60 * minutes:
        finished = one_run(data, folder / f"{number:04}", shim, rng, seconds, tally)
        if finished is not None:
            check(finished, reference, tally)
        number += 1
    print(table(summary(tally, seed, time.monotonic() - began)))
    print("", *(f"{count:4} {text}" for text, count in tally.messages.most_common()), *tally.problems, sep="\n")
    return int(bool(tally.problems))


def summary(tally: Tally, seed: int, seconds: float) -> dict[str, object]:
    """The rows of the table."""
    return {
        "Duration, seed": f"{seconds / 60:.1f} min, {seed}",
        "Runs finished": tally.finished,
        "Starts": tally.ended.total(),
        **{f"- {name}": count for name, count in tally.ended.most_common()},
        "Slowest stop after SIGTERM": f"{tally.slowest_stop:.1f} s",
        "Faults injected": tally.injected.total(),
        **{f"- {name}": count for name, count in tally.injected.most_common()},
        "Runs with wrong numbers": tally.wrong,
        "Stuck": tally.ended["stuck"],
        "Crashed": tally.ended["crashed"],
        "Starts with a traceback of a library in their log": tally.noisy,
        "Runs that could not be continued": tally.blocked,
        "Sound checkpoints set aside": tally.set_aside,
        "Verdict": "FAILED" if tally.problems else "nothing lost, nothing stuck, no wrong number",
    }


def main(arguments: Sequence[str]) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("steady", "faults"))
    parser.add_argument("--minutes", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not args.minutes > 0:
        raise UserError(f"--minutes is {args.minutes:g}; expected a positive number")
    folder = Path(tempfile.mkdtemp(prefix="naturel-soak-"))
    code = steady(folder, args.minutes) if args.kind == "steady" else faults(folder, args.minutes, args.seed)
    if code:
        print(f"kept for inspection: {folder}")
    else:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    cli.run(main)
