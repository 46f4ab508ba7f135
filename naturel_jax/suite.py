"""Several runs in one go: the rows of a table, each trained from the one it builds on, and the report they end in."""

import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from naturel_jax.metrics import read_lines
from naturel_jax.report import plots, tables
from naturel_jax.run import run


def run_all(config: ConfigDict, workdir: str) -> None:
    """Runs ``config.runs`` in order, each in ``<workdir>/<key>``, or the single run that ``config`` is, and reports
    after each.

    ``init`` may be ``run:<key>``: the run of that key. Writes ``report.md`` and ``accuracy.png`` to ``workdir``.
    Finished runs are not computed again.
    """
    runs = config.get("runs")
    parts = {key: (runs[key], str(Path(workdir) / key)) for key in runs} if runs else {"": (config, workdir)}
    if runs and jax.process_index() == 0:
        _announce(config, parts)
    rows, history = {}, {}
    for part, folder in parts.values():
        began = time.monotonic()
        rows[part.name] = run(_with_base(part, parts), folder)
        history[part.name] = _history(folder)
        if jax.process_index() == 0:
            print(f"\n{part.name}: {(time.monotonic() - began) / 60:.1f} min\n")
            print(report(Path(workdir), rows, history), flush=True)


def _with_base(part: ConfigDict, parts: dict[str, tuple[ConfigDict, str]]) -> ConfigDict:
    """``part`` with ``init`` as a folder; the base it needs is trained first where it is neither a part of this job
    nor finished."""
    origin = part.init.removeprefix("run:")
    if origin == part.init:
        return part
    if origin in parts:
        part = part.copy_and_resolve_references()
        part.init = f"run:{parts[origin][1]}"
    elif part.base and not (Path(origin) / "scores.json").exists():
        base = part.base.copy_and_resolve_references()
        base.data.dir = part.data.dir
        run(base, origin)
    return part


def _announce(config: ConfigDict, parts: dict[str, tuple[ConfigDict, str]]) -> None:
    """The parts, and how long each took where ``config.minutes`` was measured."""
    minutes = config.get("minutes", {})
    print("Parts of this job:")
    for key, (part, folder) in parts.items():
        took = f"about {minutes[key]:g} min" if key in minutes else ""
        print(f"  {part.name:12} {part.duration:>10}  {took:14} {folder}")
    if minutes:
        print(f"About {sum(minutes.values()):.0f} minutes altogether ({config.measured_on}).", flush=True)


def _history(folder: str) -> list[tuple[int, dict[str, float]]]:
    """(step, scores) of the evaluations during a run."""
    lines = read_lines(str(Path(folder) / "metrics.jsonl"))
    return [(line.pop("step"), line) for line in lines if not any(name.startswith("train/") for name in line)]


def report(workdir: Path, rows: tables.Rows, history: dict[str, list[tuple[int, dict[str, float]]]]) -> str:
    """Writes ``report.md``, and ``accuracy.png`` where runs were evaluated while they trained; returns the tables."""
    shown = [*tables.TABLES, tables.HELD_OUT]
    text = "\n".join(tables.markdown(table, rows) for table in shown)
    pages = ["# Report", text]
    if plots.accuracy_over_training(history, workdir / "accuracy.png"):
        pages.append("![Accuracy during training](accuracy.png)")
    (workdir / "report.md").write_text("\n\n".join(pages) + "\n", "utf-8")
    return text
