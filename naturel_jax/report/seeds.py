"""Scores of several runs of one setting: means over seeds, and differences from another setting, with intervals that
count seeds and images. Reads the results that runs leave in their folders, never a model.

Shape letters: S seeds, R resamples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.benchmarks.benchmark import Item, Metric, sign
from naturel_jax.evaluators import confidence, results
from naturel_jax.evaluators.results import OUTCOME, Result
from naturel_jax.report import pairs, tables, ties
from naturel_jax.report.tables import Cell
from tfds_naturel.common.errors import UserError

RESAMPLES = 5000


class Evaluated(NamedTuple):
    """An evaluated run: a folder of results, and its name there."""

    out: Path
    model: str


class Scored(NamedTuple):
    """A run's score, on all items and on R resamples of their images."""

    value: float
    resampled_R: np.ndarray


class Scores(NamedTuple):
    """``scored``: metric -> run -> score; ``counts``: metric -> its number of items, and whether items were left out;
    ``left_out``: what the runs do not share, one line for each benchmark; ``ties``: (run, benchmark, its ties, its
    items); ``chance``: metric -> chance level; ``with_trained_on``: metric -> run -> score with the items that were
    left out because the run was trained on their images."""

    scored: dict[str, dict[str, Scored]]
    counts: dict[str, tuple[int, bool]]
    left_out: list[str]
    ties: list[tuple[str, str, int, int]]
    chance: dict[str, float]
    with_trained_on: dict[str, dict[str, float]]


def shown(metrics: Sequence[Metric]) -> set[str]:
    """The metrics that a report's tables show."""
    columns = (column for table in tables.tables_of(metric.name for metric in metrics) for column in table.columns)
    return {column.metric for column in columns}


def read(
    runs: Mapping[str, Evaluated], choose: Callable[[Sequence[Metric]], set[str]] = shown, benchmark: str = ""
) -> Scores:
    """The scores of ``runs`` in the metrics that ``choose`` picks, of every benchmark or of one, on the items that all
    runs with a benchmark have, with the same images and captions. Raises UserError for a file that is not a result."""
    found: dict[str, dict[str, Result]] = {
        key: {
            result.benchmark: result
            for result in results.load(run.out)
            if result.model == run.model and benchmark in ("", result.benchmark)
        }
        for key, run in runs.items()
    }
    scores = Scores({}, {}, [], [], {}, {})
    for name in dict.fromkeys(name for of_run in found.values() for name in of_run):  # one at a time: items fill memory
        of_benchmark = {key: of_run[name] for key, of_run in found.items() if name in of_run}
        _read_benchmark(name, runs, of_benchmark, choose, scores)
    return scores


def _read_benchmark(
    name: str,
    runs: Mapping[str, Evaluated],
    of_benchmark: Mapping[str, Result],
    choose: Callable[[Sequence[Metric]], set[str]],
    scores: Scores,
) -> None:
    """Adds the scores of one benchmark to ``scores``."""
    every = {metric.name: metric for result in of_benchmark.values() for metric in result.metrics.values()}
    chosen = choose(list(every.values()))
    metrics = tuple(metric for name, metric in every.items() if name in chosen)
    shared: dict[str, Item] | None = None  # {}: the runs so far have none in common
    known: dict[str, dict[str, Any]] = {}  # item -> what it asks
    values: dict[str, dict[str, dict[str, float | None]]] = {}  # run -> outcome -> item -> value
    wanted = {metric.outcome for metric in metrics}
    for key in of_benchmark:
        rows = results.load_items(runs[key].out, runs[key].model, name, without=("cosines",))
        rows = pairs.alike(rows, known)
        if shared is None:
            shared = {row["id"]: ties.item(row) for row in rows}
        values[key] = {outcome: {row["id"]: row.get(OUTCOME + outcome) for row in rows} for outcome in wanted}
        shared = {id: item for id, item in shared.items() if all(id in known for known in values[key].values())}
    if not metrics:
        return
    items = shared or {}
    most = max(result.items for result in of_benchmark.values())
    if len(items) < most:
        scores.left_out.append(f"{name}: scored on {len(items):,} of {most:,} items, which all runs have")
    if not items:
        return
    scores.ties.extend((key, name, result.ties, result.items) for key, result in of_benchmark.items())
    for result in of_benchmark.values():
        scores.chance.update(result.chance)
    benchmark = ties.resampled(name, tuple(items.values()), metrics)
    outcomes = [
        {outcome: np.array([known[id] for id in items], float) for outcome, known in of_run.items()}
        for of_run in values.values()
    ]
    incomplete = any(result.incomplete for result in of_benchmark.values()) or len(items) < most
    for metric, (values_S, resampled_SR) in confidence.resample(benchmark, benchmark.items, outcomes, RESAMPLES):
        scored = zip(values_S, resampled_SR, strict=True)
        scores.scored[metric] = {key: Scored(float(v), r_R) for key, (v, r_R) in zip(values, scored, strict=True)}
        number = max(int(r.scores[metric]["count"]) for r in of_benchmark.values() if metric in r.scores)
        scores.counts[metric] = min(number, len(items)), incomplete
        scores.with_trained_on[metric] = {
            key: r.with_trained_on[metric] for key, r in of_benchmark.items() if metric in r.with_trained_on
        }


def mean(runs: Sequence[Scored], count: int, incomplete: bool, with_trained_on: Sequence[float] = ()) -> Cell:
    """The mean score of one or several seeds, with its interval over seeds and images."""
    values_S, resampled_R = _stacked(runs)
    value = float(np.mean(values_S))
    low, high, _ = confidence.estimate(value, resampled_R, [values_S])
    whole = float(np.mean(with_trained_on)) if len(with_trained_on) == len(runs) else None
    return Cell(value, (max(low, 0.0), min(high, 1.0)), count, incomplete, with_trained_on=whole)


def _stacked(runs: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """The scores [S] of runs, and their means [R] on resamples of the images."""
    return np.array([run.value for run in runs]), np.mean([run.resampled_R for run in runs], axis=0)


def best(metric: str, settings: Mapping[str, Sequence[Scored]]) -> set[str]:
    """Names of the setting with the best mean of ``metric`` and of those whose difference from it has a 95% interval,
    over seeds and images, that includes 0; none of a single setting."""
    top = max(settings, key=lambda name: sign(metric) * np.mean([run.value for run in settings[name]]))
    others = (name for name in settings if name != top and len(settings) > 1)
    differences = [difference(name, "", settings[name], settings[top], paired=False) for name in others]
    return {top, *(one.setting for one in differences if one.low <= 0 <= one.high)} if len(settings) > 1 else set()


class Difference(NamedTuple):
    """A setting's mean score minus that of the baseline, its 95% interval and p-value; ``adjusted``: Holm's p over all
    differences of one table."""

    setting: str
    metric: str
    seeds: str
    value: float
    low: float
    high: float
    p: float
    adjusted: float = 1.0


def difference(
    setting: str, metric: str, runs: Sequence[Scored], baseline: Sequence[Scored], *, paired: bool
) -> Difference:
    """``runs`` minus ``baseline``, on the same images. ``paired``: the n-th of both have the same seed, and what it
    makes easy for both cancels."""
    (values_S, resampled_R), (others_S, baseline_R) = _stacked(runs), _stacked(baseline)
    value = float(np.mean(values_S) - np.mean(others_S))
    drawn = [values_S - others_S] if paired else [values_S, others_S]
    low, high, p = confidence.estimate(value, resampled_R - baseline_R, drawn)
    seeds = f"{len(runs)} paired" if paired else f"{len(runs)} and {len(baseline)}"
    return Difference(setting, metric, seeds, value, low, high, p)


def adjust(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with Holm's p-values over all of them."""
    adjusted = confidence.holm([one.p for one in differences])
    return [one._replace(adjusted=p) for one, p in zip(differences, adjusted, strict=True)]


HEAD = ("setting", "score", "difference", "95% interval", "p", "p (Holm)", "seeds")


def cells(differences: Sequence[Difference]) -> Iterator[tuple[str, ...]]:
    """The rows of a table with the head ``HEAD``."""
    for one in differences:
        interval = f"{one.low:+.3f} to {one.high:+.3f}"
        yield one.setting, one.metric, f"{one.value:+.3f}", interval, f"{one.p:.2g}", f"{one.adjusted:.2g}", one.seeds


def of_run(folder: Path) -> Evaluated:
    """The results that the run in ``folder`` has left. Raises UserError if there are none."""
    out = folder / results.FOLDER
    models = {result.model for result in results.load(out)}
    if len(models) != 1:
        raise UserError(
            f"{out} has the results of {len(models)} models, expected those of a run; evaluate it with naturel-evaluate"
        )
    return Evaluated(out, models.pop())
