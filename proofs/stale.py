"""Lists the results of ``proofs.toml`` that are older than the code they measure, and records them again.

    python -m proofs.stale
    python -m proofs.stale --record --minutes 30

The second command records old results, first those that were never recorded, then in the order of the table: one,
however long it takes, and others as long as they fit into the time left; the next call continues with those that are
still old. One that fails does not count as recorded, so it keeps no other from its turn. Without ``--record``, the exit
code is 1 if any result is old. Other docstrings, comments and layout do not make a result old.
"""

import argparse
import ast
import os
import re
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proofs import record
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

_NEVER = "never recorded"
_COMMIT = re.compile(r"^\| Commit \| ([0-9a-f]{40})(.*) \|$", re.MULTILINE)
# A sweep finds runs that are finished, and reports on them: they may have been trained long before. It refuses those
# of another config, so configs count from the report on.
_SWEEP = re.compile(r"^\$ .*naturel-sweep ", re.MULTILINE)
_TRAINED = re.compile(r"^\d+ runs trained by naturel_jax \S+ commit ([0-9a-f]{40})([^;]*);", re.MULTILINE)
_CONFIGS = ("naturel_jax/configs/", "proofs/")


class Proof(NamedTuple):
    """A table of ``proofs.toml``. ``why``: why its result is old, or empty."""

    name: str
    settings: dict[str, Any]
    why: str


def read(folder: Path = record.FOLDER) -> list[Proof]:
    """All proofs, in order. Raises UserError for a path in ``measures`` that does not exist."""
    proofs = []
    tables = tomllib.loads((folder / "proofs.toml").read_text("utf-8"))
    lists = {name: value for name, value in tables.items() if isinstance(value, list)}
    for name, settings in tables.items():
        if name in lists:
            continue
        measures = [path for one in settings["measures"] for path in lists.get(one, [one])]
        if missing := [path for path in measures if not (folder.parent / path).exists()]:
            raise UserError(f"{folder / 'proofs.toml'}: [{name}] measures {missing[0]!r}, which does not exist")
        why = _why_old(folder, name, measures)
        runs = settings.get("after", "")
        if not why and any(proof.name == runs and proof.why for proof in proofs):
            why = f"of the runs of {runs}, which is old"
        proofs.append(Proof(name, settings, why))
    return proofs


def _why_old(folder: Path, name: str, measures: Sequence[str]) -> str:
    path = folder / f"{name}.md"
    if not path.exists():
        return _NEVER
    text = path.read_text("utf-8")
    trained = _TRAINED.findall(text)
    if _SWEEP.search(text) and not trained:
        return "does not say which code trained its runs"
    if not (found := _COMMIT.search(text)):
        return "names no commit"
    code = [path for path in measures if not path.startswith(_CONFIGS)]
    whys = (
        _why_old_since(folder.parent, *at) for at in [(*found.groups(), measures), *((*one, code) for one in trained)]
    )
    return next(filter(None, whys), "")


def _why_old_since(root: Path, commit: str, changes: str, measures: Sequence[str]) -> str:
    """Why a result of ``commit``, with uncommitted ``changes`` if there are any, is old, or empty."""
    if changes:
        return "recorded with uncommitted changes"
    try:
        changed = record.git(root, "diff", "--name-only", "--no-renames", commit, "HEAD", "--", *measures)
    except UserError:
        return f"its commit {commit[:7]} is not in this history"
    files = [file for file in changed.splitlines() if not _same_code(root, file, commit, "HEAD")]
    return f"other code in {len(files)} files, such as {files[0]}" if files else ""


def _same_code(root: Path, file: str, *commits: str) -> bool:
    """Whether a Python file differs in docstrings, comments and layout only."""
    if not file.endswith(".py"):
        return False
    try:
        one, other = (_code(record.git(root, "show", f"{commit}:./{file}")) for commit in commits)
    except (UserError, SyntaxError):  # not there at one of them
        return False
    return one == other


def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def main(arguments: Sequence[str]) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="record old results again")
    parser.add_argument("--minutes", type=float, default=30, help="time for that (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=record.FOLDER, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    old = sorted((proof for proof in read(args.folder) if proof.why), key=lambda proof: proof.why != _NEVER)
    for proof in old:
        by_hand = f" ({proof.settings['by_hand']})" if "by_hand" in proof.settings else ""
        print(f"{proof.name}: {proof.why}{by_hand}")
    if not args.record:
        return int(bool(old))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    deadline, results, left = time.monotonic() + 60 * args.minutes, [], 0
    for name, settings, _ in old:
        if "command" not in settings:
            continue
        # One is recorded even if it takes longer: otherwise it would never be.
        if not all(results) and time.monotonic() + 60 * settings["minutes"] > deadline:
            left += 1
            continue
        tail = f"--tail={settings.get('tail', 100)}"
        results.append(record.main([name, tail, f"--folder={args.folder}", "--", "sh", "-c", settings["command"]]))
    failed = sum(map(bool, results))
    print(f"{failed} failed, {left} left for the next call")
    return int(bool(failed))


if __name__ == "__main__":
    cli.run(main)
