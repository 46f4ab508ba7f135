"""Runs a command and records its output with the date, commit and machine.

    python -m proofs.record resume -- python -m pytest -q tests/training/test_training_processes.py

writes ``proofs/resume.md``, unless the command fails. A result belongs to a commit, so a working tree with uncommitted
changes (other than results) is rejected.
"""

import argparse
import datetime
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from naturel_jax.devices import machine as hardware
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

FOLDER = Path(__file__).parent
_FENCE = "````"  # output may contain fences of three backticks


class Result(NamedTuple):
    """The output of a command (stdout and stderr combined), its exit code and wall time in seconds."""

    output: str
    code: int
    seconds: float


def execute(command: Sequence[str]) -> Result:
    """Runs ``command``, streaming its output. Raises UserError if there is no such program."""
    if shutil.which(command[0]) is None:
        raise UserError(f"program {command[0]!r} not found; expected a command after '--', such as: -- make test-slow")
    start, lines = time.monotonic(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return Result("".join(lines), process.returncode, time.monotonic() - start)


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command in ``folder``. Raises UserError with git's message if it fails."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def commit(folder: Path, allow_dirty: bool) -> str:
    """The current commit of ``folder``. Raises UserError for uncommitted changes other than results (``proofs/*.md``);
    with ``allow_dirty``, they are noted in the returned text instead."""
    head = git(folder, "rev-parse", "HEAD")
    changed = git(folder, "status", "--porcelain", "--", ":(top)", ":(top,exclude)proofs/*.md")
    if not changed:
        return head
    if not allow_dirty:
        first, *others = changed.splitlines()
        more = f" and {len(others)} more" if others else ""
        raise UserError(f"uncommitted changes in {folder} ({first.strip()}{more}): commit them, or pass --allow_dirty")
    return f"{head} with uncommitted changes"


def machine() -> str:
    """CPU model, cores, memory, and GPUs if there are any."""
    parts = [hardware.processor()]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        parts += subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[:-1]
    return ", ".join(parts)


def report(name: str, command: Sequence[str], result: Result, revision: str, tail: int) -> str:
    """The Markdown of one result, with the last ``tail`` lines of the output."""
    lines = result.output.splitlines()
    minutes, seconds = divmod(round(result.seconds), 60)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = {"Date": date, "Commit": revision, "Machine": machine(), "Wall time": f"{minutes} min {seconds} s"}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    shown = "\n".join(lines[-tail:])
    left_out = f"The last {tail} of {len(lines)} lines:\n\n" if len(lines) > tail else ""
    return (
        f"# {name}\n\n| | |\n|---|---|\n{table}\n\n{_FENCE}\n$ {shlex.join(command)}\n{_FENCE}\n\n"
        f"{left_out}{_FENCE}\n{shown}\n{_FENCE}\n"
    )


def main(arguments: Sequence[str]) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the result: proofs/NAME.md")
    parser.add_argument("command", nargs="+", help="command to run, after '--'")
    parser.add_argument("--allow_dirty", action="store_true", help="allow uncommitted changes and note them")
    parser.add_argument("--tail", type=int, default=100, help="lines of output to keep (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="output folder (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not re.fullmatch(r"[a-z0-9_]+", args.name) or args.name == "readme":
        raise UserError(f"name {args.name!r}: expected lowercase letters, digits and '_', such as 'resume'")
    revision = commit(args.folder, args.allow_dirty)
    result = execute(args.command)
    if result.code:
        print(f"{shlex.join(args.command)} failed with exit code {result.code}: nothing recorded", file=sys.stderr)
        return 1
    file = args.folder / f"{args.name}.md"
    file.write_text(report(args.name, args.command, result, revision, args.tail), "utf-8")
    print(f"recorded in {file}")
    return None


if __name__ == "__main__":
    cli.run(main)
