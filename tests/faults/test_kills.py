"""A suite whose processes are killed at random moments, and started again: its files must equal those of an
uninterrupted one."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import storage
from tests.helpers.worlds import SPEED, STOPS_WITHIN, Run, parameters, two_processes
from tfds_naturel.common import cli

ROOT = Path(__file__).parents[2]
PARTS = {"base": 6, "tuned": 6, "untrained": 0}  # of suite_config: steps trained
_WAIT_S = 300

Interrupt = Callable[[Path, list[Run], random.Random], str]


def start(folder: Path, processes: int) -> list[Run]:
    """Starts the suite in ``folder``/run, with its data in ``folder``/data."""
    config = f"suite_config.py:{folder}/data"
    if processes == 1:
        return [Run(folder / "run", config=config)]
    return two_processes(folder / "run", devices=1, config=config)


def files(folder: Path) -> dict[str, object]:
    """Everything that must not depend on interruptions."""
    found: dict[str, object] = {}
    for part in PARTS:
        for path in (folder / "run" / part / name for name in ("scores.json", "processor.json")):
            fields = storage.read_json(epath.Path(path)) if path.exists() else None
            found[f"{part}/{path.name}"] = json.dumps(fields).replace(str(folder), "")
        if (lines := folder / "run" / part / "metrics.jsonl").exists():
            rows = storage.read_json_lines(epath.Path(lines))
            found[f"{part}/metrics"] = [{k: v for k, v in row.items() if k not in SPEED} for row in rows]
    return found


def assert_same(folder: Path, reference: Path) -> None:
    actual, expected = files(folder), files(reference)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name] == expected[name], name
    for part in (part for part, steps in PARTS.items() if steps):
        before, after = parameters(reference / "run" / part), parameters(folder / "run" / part)
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_array_equal(after[name], before[name], err_msg=f"{part} {name}")


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> Callable[[int], Path]:
    """processes -> the folder of the uninterrupted suite, run when first asked for."""
    known: dict[int, Path] = {}

    def reference(processes: int) -> Path:
        if processes not in known:
            known[processes] = tmp_path_factory.mktemp(f"reference{processes}")
            for run in start(known[processes], processes):
                run.finish()
            evaluated = [row["step"] for row in files(known[processes])["tuned/metrics"] if "naturel/simple" in row]
            assert evaluated == [0, 2, 4, 6]
        return known[processes]

    return reference


# Moment -> glob in the folder; the kill follows up to the given number of seconds after it first matches something new.
MOMENTS = {
    "drawing": ("data/naturel/small/incomplete*", 1.5),
    "saving": ("run/*/checkpoints/*tmp*", 0.1),
    "checkpoint": ("run/*/checkpoints/[0-9]*", 0.3),  # followed by an evaluation
    "training": ("run/*/metrics.jsonl", 2.0),
    "finished part": ("run/*/scores.json", 3.0),
    "starting": ("run", 8.0),
}


def wait_for(moment: str, folder: Path, runs: list[Run], rng: random.Random) -> str:
    """Waits for a random time after the moment, or until a process has ended; returns a description."""
    pattern, latest = MOMENTS[moment]
    before, delay = set(folder.glob(pattern)), rng.uniform(0, latest)
    deadline = time.monotonic() + _WAIT_S
    while all(run.process.poll() is None for run in runs) and not set(folder.glob(pattern)) - before:
        assert time.monotonic() < deadline, f"{moment}: nothing matches {pattern}\n{runs[0].output()[-3000:]}"
        time.sleep(0.002)
    time.sleep(delay)
    return f"{moment} + {delay:.2f} s"


def kill(folder: Path, runs: list[Run], rng: random.Random) -> str:
    """Kills the processes around a random moment, in random order; returns a description."""
    when, gap = wait_for(rng.choice([*MOMENTS]), folder, runs, rng), rng.uniform(0, 1)
    for number, run in enumerate(rng.sample(runs, len(runs))):
        time.sleep(gap if number else 0)
        run.process.kill()
    return f"{when}, then {gap:.2f} s between processes: exit codes {[run.wait() for run in runs]}"


def stop(folder: Path, runs: list[Run], rng: random.Random) -> str:
    """Sends SIGTERM or SIGINT to one process around a random moment; all must stop. Returns a description."""
    when = wait_for(rng.choice([moment for moment in MOMENTS if moment != "starting"]), folder, runs, rng)
    number, asked = rng.choice([signal.SIGTERM, signal.SIGINT]), time.monotonic()
    in_last_part = (folder / "run" / "untrained").exists()
    rng.choice(runs).process.send_signal(number)
    codes = {run.wait() for run in runs}
    took = time.monotonic() - asked
    # A signal in the last part may come too late.
    assert codes == {cli.STOPPED} or (in_last_part and codes == {0}), f"{when}: {codes}\n{runs[0].output()[-3000:]}"
    assert len(runs) > 1 or took < STOPS_WITHIN, f"{when}, {number.name}: {took:.1f} s"
    return f"{when}, {number.name}: exit codes {codes} after {took:.1f} s"


def check(seed: int, folder: Path, references: Callable[[int], Path], interrupt: Interrupt) -> None:
    """Two interruptions, then a run to the end. Even seeds: one process; odd ones: two."""
    rng, processes = random.Random(seed), 1 + seed % 2
    reference = references(processes)
    for _ in range(2):
        print(f"seed {seed}:", interrupt(folder, start(folder, processes), rng), flush=True)
    for run in start(folder, processes):
        run.finish()
    assert not [*folder.glob("data/naturel/*/incomplete*")]
    assert_same(folder, reference)
    shutil.rmtree(folder)


# Even seeds run one process, odd ones two. Each interrupts twice: 52 kills and 12 stops.
SEEDS = [(stop, seed) for seed in range(100, 106)] + [(kill, seed) for seed in range(26)]
SLOW = 14  # of one process: killed while it draws, and after a checkpoint, where it evaluates


def test_there_are_as_many_kills_as_the_page_says():
    page = (ROOT / "docs/reliability.md").read_text()
    number = [2 * sum(interrupt is kind and seed != SLOW for kind, seed in SEEDS) for interrupt in (kill, stop)]
    assert f"other {sum(number) // 2}, with {number[0]} kills and {number[1]} stops, are proofs" in page


@pytest.mark.parametrize(
    ("interrupt", "seed"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] == SLOW else pytest.mark.proof) for case in SEEDS],
)
def test_interrupted_suite_equals_an_uninterrupted_one(interrupt, seed, tmp_path, references):
    check(seed, tmp_path, references, interrupt)
