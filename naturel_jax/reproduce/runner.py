"""Runs the commands of a stage one after the other, and records finished stages in ``<workdir>/state.json``."""

import datetime
import shlex
from collections.abc import Sequence
from typing import Any

from etils import epath

from naturel_jax import storage
from naturel_jax.cli import children
from naturel_jax.reproduce.stages import Task, Work
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError

_FORMAT = 1


class DoneStages:
    """Record of the finished stages: how long they took, and what they left out. Raises UserError for a file with
    another budget or format."""

    def __init__(self, work: Work):
        self._path = epath.Path(work.root) / "state.json"
        new: dict[str, Any] = {"version": _FORMAT, "budget": str(work.budget), "stages": {}}
        self._fields = storage.read_json(self._path) if self._path.exists() else new
        for field in ("version", "budget"):
            if (found := self._fields.get(field)) != new[field]:
                raise UserError(f"{self._path}: {field} is {found!r}, now {new[field]!r}; choose another --workdir")

    def done(self, stage: str, tasks: Sequence[Task]) -> bool:
        """Whether the stage is finished, left nothing out, and would do the same ``tasks`` again; files added by hand
        since then give it more to do."""
        row = self._fields["stages"].get(stage, {"gaps": None, "commands": None})
        return row["gaps"] == [] and row["commands"] == [command_line(task) for task in tasks]

    @property
    def gaps(self) -> list[str]:
        """What the stages left out, and why."""
        return [gap for row in self._fields["stages"].values() for gap in row["gaps"]]

    def finish(self, stage: str, tasks: Sequence[Task], seconds: float, gaps: Sequence[str]) -> None:
        """Records a finished stage; ``tasks``: what it would do now."""
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        commands = [command_line(task) for task in tasks]
        row = {"finished": finished, "seconds": round(seconds, 1), "commands": commands, "gaps": list(gaps)}
        self._fields["stages"][stage] = row
        storage.write_json(self._path, self._fields)


def run_stage(name: str, tasks: Sequence[Task]) -> list[str]:
    """Runs the commands of a stage; returns what was left out, and why. Raises Stopped and UserError."""
    gaps = []
    for task in tasks:
        if absent := [f"{path} is missing ({what})" for path, what in task.needs.items() if not path.exists()]:
            gaps.append(f"{task.gap}: {absent[0]}")
            print(f"not run, {absent[0]}: {command_line(task)}", flush=True)
            continue
        print(f"\n$ {command_line(task)}", flush=True)
        if (code := children.run(["-m", task.module, *task.arguments])[0]) == cli.DONE:
            continue
        if task.gap and code > 0:
            gaps.append(f"{task.gap}: `{command_line(task)}` ended with exit code {code}")
        elif code in (cli.STOPPED, cli.INTERRUPTED) or code < 0:
            raise Stopped(f"stage {name} stopped (exit code {code}); run the same command again to continue")
        else:
            raise UserError(f"stage {name}: `{command_line(task)}` ended with exit code {code}; see its last line")
    return gaps


def command_line(task: Task) -> str:
    """A task as a user would type it."""
    return shlex.join(["python", "-m", task.module, *task.arguments])
