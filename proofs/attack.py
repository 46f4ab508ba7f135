"""Repeats every attack that was ever found to work, and prints a table of what each does now.

    python -m proofs.attack                     # runs what has not been run at this commit
    python -m proofs.attack --since 1a2b3c4     # runs what has not held since that commit
    python -m proofs.record attack -- python -m proofs.attack

A row runs tests, or reads files that cost far more than their size. Results are kept in ``build/attack.json`` with
their commit, so that the command goes on where it was stopped. Exits with 1 if an attack works again.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from proofs import record
from tests.helpers import costs
from tests.helpers.readers import READERS
from tfds_naturel.common import cli

ROOT = Path(__file__).parents[1]
STATE = ROOT / "build" / "attack.json"
BOMBS = 20  # for each reader
SEEN = "seen: "  # begins what tests print for the table

Outcome = tuple[str, bool]  # what was seen, and whether it is as it should be
Row = tuple[str, str, bool, int]  # commit, outcome, seconds
ATTACKS: dict[str, Callable[[], Outcome]] = {}


def _tests(name: str, *arguments: str) -> None:
    """Adds a row that runs tests: it is as it should be if they exist and pass. What they print is shown, too."""

    def run() -> Outcome:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--override-ini=addopts=",
            "-rP",
            *arguments,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seen = re.findall(rf"^{SEEN}(.*)", done.stdout, re.MULTILINE)
        if done.returncode:
            print(
                *re.findall(r"^E .*|^FAILED .*", done.stdout, re.MULTILINE),
                done.stdout[-5000:],
                sep="\n",
                file=sys.stderr,
            )
        last = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
        return "; ".join([last, *seen]), done.returncode == 0

    ATTACKS[name] = run


def _bombs(name: str) -> None:
    """Adds a row that reads ``BOMBS`` bombs with a reader of ``tests.helpers.readers``."""

    def run() -> Outcome:
        memory, seconds, over = 0, 0.0, list[str]()
        with tempfile.TemporaryDirectory() as folder:
            for number in range(BOMBS):
                cost, size, what = costs.cost_of(name, number, Path(folder))
                memory, seconds = max(memory, cost.memory), max(seconds, cost.seconds)
                over += [f"{what}: {wrong}"] if (wrong := cost.over(size)) else []
        return over[0] if over else f"up to {memory >> 20:,} MB, {seconds:.1f} s", not over

    ATTACKS[f"bombs: {name}"] = run


for _name in READERS:
    _bombs(_name)
_tests("hostile pickles", "tests/weights/test_weights_torch.py", "-k", "hostile or instructions or limited")
_tests("images larger than their bytes allow", "tests/data/text/test_processor.py", "-k", "bombs or strip")
_tests("tokenizers that grow", "tests/weights/test_tokenizers_limited.py")
_tests("tokenizers that pad all texts to the longest", "tests/data/text/test_processor.py", "-k", "pad_all_texts")
_FLIPS = "tests/faults/test_flips.py"
for _part in range(4):
    for _cache, _id in (("", ""), (", images decoded", "decoded")):
        _tests(
            f"bits of a workdir and its caches{_cache}, part {_part + 1} of 4",
            f"{_FLIPS}::test_a_bit_of_each_file_of_a_run_changes_no_number[{_id}-{_part}]",
        )
_tests("bits of results: a sweep, adapters, a curve", _FLIPS, "-k", "results")
_tests("bits of a pool of embeddings and its index", _FLIPS, "-k", "pool")
_tests("bits of the footer of a Parquet file", "tests/faults/test_readers.py", "-k", "footer")
_tests("sizes of pages that are hidden", "tests/faults/test_readers.py", "-k", "other_page_header")
_tests("columns of a Parquet file in one place", "tests/faults/test_readers.py", "-k", "columns_in_one_place")
_tests("sizes of members of a zip file that are hidden", "tests/tfds_naturel/common/test_files.py", "-k", "zip")
_tests("pipes in place of files", "tests/faults/test_readers.py", "-k", "pipes")
_tests("bits of exported decisions", "tests/tfds_naturel/audit/test_agreement.py", "-k", "flipped")
_tests("bits of a checkpoint", "tests/checkpoints/test_manifest.py")
_tests(
    "bits of other caches",
    *("tests/data/items/test_decoded.py", "tests/data/items/test_items_on_disk.py", "tests/data/test_data_check.py"),
    *(
        "tests/evaluators/test_evaluators_cache.py",
        "tests/storage/test_once.py",
        "tests/storage/test_object_stores_data.py",
    ),
    *("tests/evaluators/test_pool.py", "tests/evaluators/test_evaluators_results.py", "tests/report/test_report.py"),
    *("tests/tfds_naturel/hard_images/test_mining.py", "-k", "damaged or another_evaluation"),
)
_FETCH = "tests/tfds_naturel/open_images/test_fetch.py"
_LEASES = "tests/storage/test_leases.py"
_tests("leases: a clock a day off, a cloned host name, SIGSTOP", _LEASES, "-k", "no_clock_of_another_machine")
_tests("leases: a process id that is used again", _LEASES, "-k", "names_a_live_holder")
_tests("leases: eight starts at once", _LEASES, "-k", "one_of_several_takes_over")
_tests("leases: a damaged one, an owner that was paused", _LEASES, "-k", "damaged or paused")
_tests("leases: in a store", "tests/storage/test_object_stores.py", "-k", "lease")
_tests("leases: a paused owner completes a checkpoint", "tests/checkpoints/test_checkpoint.py", "-k", "paused")
_tests("names and meshes that are wrong, a lost lease", "tests/training/test_run_folder.py")
_tests("mistakes that are found before the first step", "tests/training/test_ready.py", "-k", "mistake or failed")
_tests("values that nobody means", "tests/config")
_tests("values that nobody means, as flags", "tests/cli/test_main.py", "-k", "seed")
_tests("stops while the step is compiled", "tests/devices/test_preemption.py", "-k", "compiled")
_tests("stops in all else", "tests/devices/test_preemption.py", "-k", "not compiled")
_tests("failed saves", "tests/checkpoints/test_checkpoint.py", "-k", "failed_save")
_tests("too little memory", "tests/faults/test_memory.py")
_tests("hub and other servers", "tests/storage/test_hub.py", "tests/tfds_naturel/open_images/test_fetch_servers.py")
_tests(
    "files of a stranger's results, runs and folders",
    *("tests/evaluators/test_evaluators_results.py", "tests/report/test_report.py", "tests/benchmarks"),
    *("tests/tfds_naturel/audit/test_readers.py", "tests/tfds_naturel/open_images/test_open_images.py"),
    *("tests/weights/test_weights_broken.py", "tests/data/text/test_processor.py"),
    *(
        "-k",
        "stranger or step_beyond or follow_a_link or comma_without or one_name or no_formulas or strips or no_object",
    ),
)
_tests("prompts that grow", "tests/benchmarks/test_benchmarks_files.py", "-k", "prompts")
_tests("a run of a stranger for which is mined", "tests/evaluators/pool/test_remining.py", "-k", "stranger")
_tests("a full disk while images are mined", "tests/tfds_naturel/hard_images/test_mining.py", "-k", "full_disk")
_tests(
    "pipes and devices in place of files",
    *("tests/faults/test_readers.py", "tests/data/test_datasets.py", "tests/storage", "-k", "pipe"),
)
_tests("a prepared dataset of a stranger", "tests/data/test_datasets.py", "-k", "stranger or metadata or labels")
_tests("keys, columns and members that are there twice", "tests/data/sources", "tests/benchmarks", "-k", "twice")
_tests("a model card of a megabyte", "tests/weights/test_exports_card.py", "-k", "no_longer")
_tests("a benchmark that changes between two evaluations", "tests/report", "-k", "changed or judge_joins")
_tests("paths out of a folder", "tests/data/items/test_data_index.py", "-k", "leave_the_folder")
_tests("parts of an index that was interrupted", "tests/data/items/test_data_index.py", "-k", "interrupted_build")
_tests("a long fact of many captions", "tests/data/items/test_data_index.py", "-k", "long_fact")
_tests("a header that is read for each tensor", "tests/weights/test_weights_hf.py", "-k", "safetensors_writes")
_tests("a body without end from a store", "tests/storage/test_object_stores.py", "-k", "longer_than")
_tests("pipes, devices and numbers in a folder of photos", _FETCH, "-k", "without_end or of_a_journal")
_tests("an image with rows without end", "tests/tfds_naturel/open_images/test_open_images.py", "-k", "without_end")
_tests("facts and hashes that are all compared", "tests/tfds_naturel", "-k", "judged_once or agree_in_a_part")
_tests("annotators and relations without end", "tests/tfds_naturel/audit/test_agreement.py", "-k", "limit_of_people")
_tests("millions of pairs of captions", "tests/benchmarks/test_benchmarks_own.py", "-k", "millions")
_tests("a test quadratic in the items", "tests/report/test_report_compare.py", "-k", "p_of_many")
_tests("a folder listed for each description", "tests/benchmarks/test_benchmarks_readers.py", "-k", "imagecode")
_tests("a character of 5,000 digits", "tests/data/text", "-k", "reference_of_any_length")
_tests("terminals controlled by an error", "tests/tfds_naturel/common/test_cli.py", "-k", "failed_command")
_tests("tracebacks of damaged files", "tests/faults/test_readers.py", "-m", "slow", "-k", "one_line")
_tests(
    "headers of tars, cells and captions without end",
    "tests/data",
    "-k",
    "extended_headers or larger_than or without_end",
)
_tests(
    "tracebacks: sparse tars, cut ArrayRecords", "tests/data/sources/test_data_sources.py", "-k", "sparse or truncated"
)
_tests("files that are damaged at random", "tests/faults/test_fuzz_files.py", "-m", "not proof")
_tests("weights that are damaged at random", "tests/faults/test_fuzz_weights.py", "-m", "not proof")
_KILLS = "tests/faults/test_kills.py::test_interrupted_suite_equals_an_uninterrupted_one"
for _kind, _seed in (("kill", 0), ("kill", 1), ("kill", 2), ("kill", 3), ("stop", 100), ("stop", 101)):
    _tests(f"{_kind}s at random moments, seed {_seed}", f"{_KILLS}[{_kind}-{_seed}]")
_tests("kills of processes that embed a pool", "tests/faults/test_pool_kills.py")
_tests(
    "code in files and texts",
    *("tests/weights/test_weights_torch.py", "tests/report/playground", "tests/tfds_naturel/audit/test_audit.py"),
    *("tests/weights/test_exports_card.py", "tests/tfds_naturel/common/test_escape.py"),
    *("-k", "does_not_run or escaped or inject or markdown or cell"),
)
_tests("a paused owner in a store, hidden processes", "tests/storage", "-k", "paused or hidden")
_tests("a sound checkpoint that arrives short", "tests/storage/test_object_stores_checkpoints.py", "-k", "short")
_tests("Ctrl-C that Python ignores", "tests/tfds_naturel/common/test_cli.py", "-k", "ctrl_c")


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    parser.add_argument("--without", help="part of the names of rows that are left out, which the table says")
    parser.add_argument("--again", action="store_true", help="run what has been run, too")
    parser.add_argument("--since", default="", help="a commit: rows that held there or later are not run again")
    options = parser.parse_args(arguments)
    commit = record.commit(ROOT, allow_dirty=True)
    counted = [commit]
    if options.since:
        counted += record.git(ROOT, "rev-list", f"{options.since}^..HEAD").split()
    state: dict[str, Row] = json.loads(STATE.read_text()) if STATE.exists() else {}
    STATE.parent.mkdir(exist_ok=True)
    left_out = [name for name in ATTACKS if options.without and options.without in name]
    chosen = [name for name in ATTACKS if options.only in name and name not in left_out]
    for name in chosen:
        known = state.get(name)
        if options.again or not known or known[0] not in counted or (known[0] != commit and not known[2]):
            began = time.monotonic()
            seen, fine = ATTACKS[name]()
            state[name] = (commit, seen, fine, round(time.monotonic() - began))
            storage.write(epath.Path(STATE), json.dumps(state, indent=1))  # whole, wherever this command is stopped
            print(f"{name}: {seen}{'' if fine else ': WORKS'}", file=sys.stderr, flush=True)
    rows = {name: state[name] for name in chosen}
    print(f"{datetime.date.today()}, commit {commit}\n\n| attack | now | s | commit | |\n|---|---|---:|---|---|")
    for name, (at, seen, fine, seconds) in rows.items():
        print(f"| {name} | {seen} | {seconds} | {at[:9]} | {'' if fine else 'WORKS'} |")
    works = sum(not fine for _, _, fine, _ in rows.values())
    print(f"\n{len(rows)} attacks, {works} work" + (f"; not run: {', '.join(left_out)}" if left_out else ""))
    return int(works > 0)


if __name__ == "__main__":
    cli.run(main)
