"""Repeats every attack that was ever found to work, and prints a table of what each does now.

    python -m proofs.attack                     # runs what has not been run at this commit
    python -m proofs.record attack -- python -m proofs.attack

A row is a function with ``@attack(...)``. Results are kept in ``build/attack.json`` with their commit, so that the
command goes on where it was stopped. Exits with 1 if an attack works again.
"""

import argparse
import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from proofs import record
from tests.helpers import bombs
from tests.helpers.readers import READERS
from tfds_naturel.common import cli

ROOT = Path(__file__).parents[1]
STATE = ROOT / "build" / "attack.json"
SEEDS = 20  # bombs for each reader

Outcome = tuple[str, bool]  # what was seen, and whether it is as it should be
ATTACKS: dict[str, Callable[[], Outcome]] = {}


def attack(name: str) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Adds a row with this name to the table."""

    def add(run: Callable[[], Outcome]) -> Callable[[], Outcome]:
        ATTACKS[name] = run
        return run

    return add


def _tests(name: str, *arguments: str) -> None:
    """Adds a row that runs tests: it is as it should be if they exist and pass."""

    def run() -> Outcome:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--override-ini=addopts=",
            *arguments,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= "), done.returncode == 0

    ATTACKS[name] = run


def _bombs(name: str) -> None:
    """Adds a row that reads ``SEEDS`` bombs with a reader of ``tests.helpers.readers``."""

    def run() -> Outcome:
        memory, seconds, over = 0, 0.0, list[str]()
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(SEEDS):
                cost, size, what = bombs.cost_of(name, random.Random(seed), Path(folder))
                memory, seconds = max(memory, cost.memory), max(seconds, cost.seconds)
                over += [f"{what}: {wrong}"] if (wrong := cost.over(size)) else []
        return over[0] if over else f"up to {memory >> 20:,} MB, {seconds:.1f} s", not over

    ATTACKS[f"bombs: {name}"] = run


for _name in READERS:
    _bombs(_name)
for _form, _kind in (("torch", "pickle"), ("TorchScript", "pickle")):
    _tests(
        f"hostile pickles: {_form}", "tests/weights/test_weights_torch.py", "-k", "hostile or instructions or limited"
    )
_tests("images larger than their bytes allow", "tests/data/test_processor.py", "-k", "bombs or strip")
_tests("tokenizers that grow", "tests/weights/test_tokenizers_limited.py")
_tests("bits of a processor or an index", "tests", "-k", "flipped_bit or flipped_bits")
_tests("leases of other clocks and hosts", "tests/storage", "-k", "lease or clock or host")
_tests("names and meshes that are wrong", "tests/training/test_run_folder.py")
_tests("values that nobody means", "tests/config")
_tests("stops", "tests/devices/test_preemption.py")
_tests("hub and other servers", "tests/storage/test_hub.py", "tests/tfds_naturel/test_fetch_servers.py")
_tests("paths out of a folder", "tests/data/test_data_index.py", "-k", "leave_the_folder")
_tests("tracebacks of damaged files", "tests/faults/test_readers.py", "-m", "slow", "-k", "one_line")


def _load(commit: str) -> dict[str, Any]:
    """The results at ``commit`` so far."""
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    return state if state.get("commit") == commit else {"commit": commit, "rows": {}}


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    parser.add_argument("--again", action="store_true", help="run what has been run, too")
    options = parser.parse_args(arguments)
    commit = record.commit(ROOT, allow_dirty=True)
    state = _load(commit)
    STATE.parent.mkdir(exist_ok=True)
    chosen = [name for name in ATTACKS if options.only in name]
    for name in chosen:
        if options.again or name not in state["rows"]:
            began = time.monotonic()
            seen, fine = ATTACKS[name]()
            state["rows"][name] = [seen, fine, round(time.monotonic() - began)]
            STATE.write_text(json.dumps(state, indent=1))
    rows = {name: state["rows"][name] for name in chosen}
    print(f"{datetime.date.today()}, commit {commit}\n\n| attack | now | s | |\n|---|---|---:|---|")
    print("\n".join(f"| {name} | {seen} | {s} | {'' if fine else 'WORKS'} |" for name, (seen, fine, s) in rows.items()))
    works = sum(not fine for _, fine, _ in rows.values())
    print(f"\n{len(rows)} attacks, {works} work")
    return int(works > 0)


if __name__ == "__main__":
    cli.run(main)
