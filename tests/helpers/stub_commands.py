"""Commands that record how they are called, in place of those of clusters."""

import shlex
from pathlib import Path


def stub(folder: Path, name: str, script: str) -> None:
    """A command in ``folder`` that appends its arguments, quoted, to ``<folder>/<name>.calls`` and runs ``script``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "$(printf \'%q \' "$@")" >> {folder}/{name}.calls\n{script}\n')
    path.chmod(0o755)


def calls(folder: Path, name: str) -> list[list[str]]:
    """The arguments of each call."""
    path = folder / f"{name}.calls"
    return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []
