"""The runs of one command, and the report on them: a table with a row for each run."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import jax
from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.config import Config, Suite
from naturel_jax.devices import machine
from naturel_jax.evaluators import results
from naturel_jax.evaluators.results import LeftOut
from naturel_jax.report import files, report, writing
from naturel_jax.report.seeds import Evaluated
from naturel_jax.storage import staging
from naturel_jax.training import run_folder
from tfds_naturel.common.errors import UserError


class SuiteReport:
    """The report on the runs of ``config``, in ``workdir``: a row for each, once it is finished. ``recipe``: what
    differs from the config file, in lines."""

    def __init__(self, config: Config | Suite, workdir: epath.Path, recipe: Sequence[str] = ()):
        """Lists the runs, if there are several. Raises UserError if two rows would share a name, or if ``workdir`` has
        files of somebody else's that the report on several would replace."""
        self.runs = config.runs if isinstance(config, Suite) else {"": config}
        self._names, self._workdir, self._recipe = row_names(self.runs), workdir, recipe
        self._found: dict[str, Finished] = {}
        self._left_out: list[LeftOut] = []
        self._evaluated: dict[str, Evaluated] = {}
        if isinstance(config, Suite):  # a run looks at its folder itself
            files.check(workdir, self.runs, "runs of this suite", "--workdir")
            if jax.process_index() == 0:
                _announce(config, workdir)

    def add(self, key: str, found: Finished, seconds: float) -> None:
        """Adds the run ``key`` and writes and prints the report. Items are compared once all runs are there."""
        if jax.process_index() > 0:
            return
        name = self._names[key]
        print(f"\n{name}: {seconds / 60:.1f} min\n")
        self._found[name] = found
        self._left_out += run_folder.left_out(found, name)
        if storage.names(out := self._workdir / key / results.FOLDER):
            self._evaluated[name] = Evaluated(staging.stage(out), self.runs[key].name)
        rows = self._found.items()
        made = report.of_runs(
            {name: row.scores for name, row in rows},
            {name: row.intervals for name, row in rows},
            self._left_out,
            {metric: score for _, row in rows for metric, score in row.text_only.items()},
            self._evaluated if len(rows) == len(self.runs) else {},
        )
        folders = {name: [self._workdir / key] for key, name in self._names.items() if name in self._found}
        made = report.with_runs(made, folders, self._recipe, machine.accelerators())
        text = writing.save(self._workdir, dataclasses.replace(made, title=self._title()))
        print(f"{text}\nreport: {self._workdir / 'report.html'}", flush=True)

    def _title(self) -> str:
        """What the report is of: a run by its name, a suite by its folder."""
        if len(self.runs) == 1:
            return f"Run {next(iter(self._found))}"
        number = f"{len(self._found)} of {len(self.runs)}" if len(self._found) < len(self.runs) else f"{len(self.runs)}"
        return f"{self._workdir.name}: {number} runs"


def row_names(runs: Mapping[str, Config]) -> dict[str, str]:
    """Folder -> name of its row in the report: the run's name, with the folder if several runs share it. Raises
    UserError if names are still not unique."""
    count = Counter(part.name for part in runs.values())
    names = {key: f"{part.name} ({key})" if count[part.name] > 1 else part.name for key, part in runs.items()}
    for name, number in Counter(names.values()).items():
        if number > 1:
            keys = ", ".join(key for key in runs if names[key] == name)
            raise UserError(f"runs {keys}: their rows would all be called {name!r}; change config.name of one of them")
    return names


def _announce(suite: Suite, workdir: epath.Path) -> None:
    """Prints the runs, and how long each took, if that was measured."""
    print("Runs:")
    for key, part in suite.runs.items():
        took = f"about {suite.minutes[key]:g} min" if key in suite.minutes else ""
        print(f"  {part.name:12} {part.duration:>10}  {took:14} {workdir / key}")
    if suite.minutes:
        print(f"About {sum(suite.minutes.values()):.0f} minutes in total ({suite.measured_on}).", flush=True)
