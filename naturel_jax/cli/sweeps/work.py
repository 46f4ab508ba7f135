"""What `naturel-sweep` does: plans, trains this process's share or starts processes that do, reports."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging as absl_logging
from etils import epath

from naturel_jax import storage
from naturel_jax.cli import children, compilation_cache
from naturel_jax.cli.sweeps import grids, runs, search, table
from naturel_jax.cli.sweeps.grids import Grid, Planned
from naturel_jax.cli.sweeps.search import Search
from naturel_jax.config import Config
from naturel_jax.devices import processes
from naturel_jax.devices.processes import Share
from naturel_jax.report import files
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError

FAILED = 3  # exit code


class Sweep(NamedTuple):
    """A checked sweep: a grid's ``runs``, or a ``search``, whose runs are known once its trials begin."""

    runs: Sequence[Planned]
    search: Search | None
    score: str
    baseline: str


def make(flags: Sequence[str], options: argparse.Namespace, out: Path) -> Sweep:
    """The sweep of the flags. Raises UserError for anything that is wrong with it, or with what is in ``out``."""
    grid = grids.make_grid(flags, options.grid, options.seeds, out.resolve().name)
    settings = search.corners(grid) if options.search else grids.settings(grid)
    planned = [run for setting in settings for run in grid.runs(setting)]
    if options.search:
        planned = list({run.key: run for run in planned}.values())  # corners may coincide
    grids.check(planned, out)
    grids.check_names(planned, options.score, options.baseline, options.prune)
    marks, names = [search.META, *(run.key for run in planned)], [*files.NAMES, table.DIFFERENCES, table.RUNS]
    files.check(epath.Path(out), marks, "runs of this sweep", "--out", names)
    storage.check_writable(epath.Path(out), flag="--out")
    if not options.search:
        return Sweep(planned, None, options.score, options.baseline)
    return Sweep((), _search(grid, options, out), options.score, options.baseline)


def _search(grid: Grid, options: argparse.Namespace, out: Path) -> Search:
    if not grid.values:
        raise UserError("--search needs --grid, such as --grid config.optim.lr=1e-5..1e-3:log")
    if not isinstance(grids.load(grid, {}), Config):
        raise UserError("--search needs the config of one run; this one has several")
    made = Search(grid, options.search, options.trials, options.score, options.prune)
    search.check_same(made, out)
    return made


def train(sweep: Sweep, out: Path, share: Share) -> None:
    """Trains the runs of a share, one after another. Raises Stopped."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # as naturel_jax.main does
    processes.check_limits()
    compilation_cache.enable()
    if sweep.search:
        search.train(sweep.search, out, share)
    for planned in sweep.runs[share.index :: share.count]:
        runs.train(planned, out)


def spawn(arguments: Sequence[str], jobs: int, share: Share) -> None:
    """Starts ``jobs`` processes of this command, each with a part of the share, and waits for them. Raises Stopped if
    one was stopped, UserError if one failed as a whole."""
    environments = runs.environments(jobs)
    parts = [f"{share.index + job * share.count}/{share.count * jobs}" for job in range(jobs)]
    commands = [["-m", "naturel_jax.sweep", *arguments, "--jobs=1", f"--share={part}", "--worker"] for part in parts]
    codes = children.run(*commands, environments=environments)
    if any(code < 0 or code in (cli.STOPPED, cli.INTERRUPTED) for code in codes):
        raise Stopped(f"processes ended with exit codes {codes}; run the same command again to continue")
    if any(codes):
        raise UserError(f"processes ended with exit codes {codes}; see their last lines")


def report(sweep: Sweep, out: Path) -> int:
    """Writes and prints the report on all runs of the sweep that are finished; returns the exit code."""
    planned = sweep.runs
    if sweep.search:
        settings = search.settings(sweep.search, out)
        planned = [run for setting in settings for run in sweep.search.grid.runs(setting)]
    print(table.write(out, planned, sweep.score, sweep.baseline), flush=True)
    failures = runs.failures(planned, out)
    print(*failures, f"report: {out / 'report.html'}", sep="\n", flush=True)
    return FAILED if failures else cli.DONE
