"""Runs one or several configs in one command: the rows of a table, and the report on them."""

import logging
import time
from collections.abc import Mapping

import jax
from etils import epath

from naturel_jax import object_folders, storage
from naturel_jax.config import Config, Suite
from naturel_jax.report import plots, tables
from naturel_jax.run import run

_LOG = logging.getLogger(__name__)

History = dict[str, list[tuple[int, dict[str, float]]]]


def run_all(config: Config | Suite, workdir: str) -> None:
    """Runs ``config.runs`` in order, each in ``<workdir>/<key>``, or the single run ``config``, and updates
    ``<workdir>/report.md`` after each. Finished runs are not repeated.
    """
    runs = config.runs if isinstance(config, Suite) else {"": config}
    if isinstance(config, Suite) and jax.process_index() == 0:
        _announce(config, workdir)
    rows: dict[str, Mapping[str, float]] = {}
    history: History = {}
    for key, part in runs.items():
        began, folder = time.monotonic(), epath.Path(workdir) / key
        name = part.name if part.name not in rows else f"{part.name} ({key})"
        rows[name] = run(part, folder)
        history[name] = _history(folder)
        if jax.process_index() == 0:
            print(f"\n{name}: {(time.monotonic() - began) / 60:.1f} min\n")
            print(report(epath.Path(workdir), rows, history), flush=True)


def _announce(suite: Suite, workdir: str) -> None:
    """Prints the runs, and how long each took, if that was measured."""
    print("Runs:")
    for key, part in suite.runs.items():
        took = f"about {suite.minutes[key]:g} min" if key in suite.minutes else ""
        print(f"  {part.name:12} {part.duration:>10}  {took:14} {epath.Path(workdir) / key}")
    if suite.minutes:
        print(f"About {sum(suite.minutes.values()):.0f} minutes in total ({suite.measured_on}).", flush=True)


def _history(folder: epath.Path) -> list[tuple[int, dict[str, float]]]:
    """(step, scores) of the evaluations during a run."""
    lines = storage.read_json_lines(folder / "metrics.jsonl")
    return [(line.pop("step"), line) for line in lines if not any(name.startswith("train/") for name in line)]


def report(workdir: epath.Path, rows: tables.Rows, history: History) -> str:
    """Writes ``report.md``, and ``accuracy.png`` if runs were evaluated during training; returns the tables."""
    text = "\n".join(tables.markdown(table, rows) for table in tables.tables_of(rows))
    pages = ["# Report", text]
    with object_folders.written_locally(workdir) as local:
        if plots.accuracy_over_training(history, local / "accuracy.png"):
            pages.append("![Accuracy during training](accuracy.png)")
    storage.write(workdir / "report.md", "\n\n".join(pages) + "\n")
    return text
