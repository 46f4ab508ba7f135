"""Runs one or several configs in one command: the rows of a table, and the report on them."""

import time
from collections import Counter
from collections.abc import Mapping

import jax
from etils import epath

from naturel_jax.config import Config, Suite
from naturel_jax.evaluators.results import LeftOut
from naturel_jax.report import report
from naturel_jax.training import run_folder, writers
from naturel_jax.training.run import run
from tfds_naturel.common.errors import UserError


def run_all(config: Config | Suite, workdir: str) -> None:
    """Runs ``config.runs`` in order, each in ``<workdir>/<key>``, or the single run ``config``, and updates the report
    in ``workdir`` after each. Finished runs are not repeated. Raises UserError if two rows of it have one name.
    """
    runs = config.runs if isinstance(config, Suite) else {"": config}
    names = row_names(runs)
    if isinstance(config, Suite) and jax.process_index() == 0:
        _announce(config, workdir)
    scores: dict[str, Mapping[str, float]] = {}
    intervals, histories = {}, {}
    left_out: list[LeftOut] = []
    text_only: dict[str, float] = {}
    for key, part in runs.items():
        began, folder, name = time.monotonic(), epath.Path(workdir) / key, names[key]
        scores[name] = run(part, folder)
        histories[name] = writers.history(folder)
        if jax.process_index() == 0:
            print(f"\n{name}: {(time.monotonic() - began) / 60:.1f} min\n")
            intervals[name] = run_folder.read_intervals(folder)
            left_out += run_folder.read_left_out(folder, name)
            text_only |= run_folder.read_text_only(folder)
            text = report.save(epath.Path(workdir), report.of_scores(scores, intervals, histories, left_out, text_only))
            print(text, flush=True)


def row_names(runs: Mapping[str, Config]) -> dict[str, str]:
    """Folder -> name of its row in the report: the run's name, with the folder if several runs have that name. Raises
    UserError if that does not make them different."""
    count = Counter(part.name for part in runs.values())
    names = {key: f"{part.name} ({key})" if count[part.name] > 1 else part.name for key, part in runs.items()}
    for name, number in Counter(names.values()).items():
        if number > 1:
            keys = ", ".join(key for key in runs if names[key] == name)
            raise UserError(f"runs {keys}: their rows would all be called {name!r}; change config.name of one of them")
    return names


def _announce(suite: Suite, workdir: str) -> None:
    """Prints the runs, and how long each took, if that was measured."""
    print("Runs:")
    for key, part in suite.runs.items():
        took = f"about {suite.minutes[key]:g} min" if key in suite.minutes else ""
        print(f"  {part.name:12} {part.duration:>10}  {took:14} {epath.Path(workdir) / key}")
    if suite.minutes:
        print(f"About {sum(suite.minutes.values()):.0f} minutes in total ({suite.measured_on}).", flush=True)
