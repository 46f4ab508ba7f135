"""Many benchmarks at a glance: scores by family, what models gained and forgot, and how far they agree.

Shape letters: M metrics, N items, S models, R resamples.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.benchmarks.benchmark import headlines, sign
from naturel_jax.evaluators import confidence
from naturel_jax.evaluators.results import OUTCOME, Result
from naturel_jax.report import plots, tables, ties
from naturel_jax.report.contents import Change, Section
from naturel_jax.report.pairs import are_right
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, Cell, ModelRow

Items = Mapping[str, Sequence[Mapping[str, Any]]]


class ColumnFamily(NamedTuple):
    """Benchmarks of one kind. ``of``: the pattern of a metric that each of its benchmarks has, and no benchmark of a
    later family needs; ``columns``: of those headline metrics that are its columns; ``kept``: whether fine-tuning is
    meant to keep its scores, not to raise them."""

    key: str
    title: str
    of: str
    columns: str = ""
    kept: bool = False


COLUMN_FAMILIES = (
    ColumnFamily("naturel", "NatuRel", r"^naturel[/_]"),
    ColumnFamily("zeroshot", "Zero-shot classification", r"/top1$", r"/top1$", kept=True),
    ColumnFamily("retrieval", "Retrieval", r"/image_to_text@1$", r"@1$", kept=True),
    ColumnFamily("groups", "Groups of two images and two captions", r"/group$"),
    ColumnFamily("pairs", "Pairs and choices", ""),
)
FEW = 4  # benchmarks: those of the poster, whose two tables are enough
_FORGETTING = "Forgetting against gain"
_CHANGED = (
    "Change of the mean score over the columns that a model and its base both have, on the items that both were scored "
    "on, but for columns of which less is better. In brackets: its 95% interval, by a paired bootstrap over the images "
    "of all benchmarks, and the number of columns."
)
_RESAMPLES = 1000
_AGREEMENT = (
    "Above the diagonal: the share of items on which both models are right or both are wrong, below it Cohen's kappa, "
    "which is 0 if they agree no more often than models of their accuracies would by chance. Each is the mean over the "
    "benchmarks that both were evaluated on, by the first score of each. A share counts as right if "
    "it is 1."
)


def columns(metrics: Sequence[str]) -> dict[ColumnFamily, list[str]]:
    """The metrics that are columns of each family with any."""
    benchmarks: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metrics):
        benchmarks.setdefault(metric.split("/")[0], []).append(metric)
    found: dict[ColumnFamily, list[str]] = {family: [] for family in COLUMN_FAMILIES}
    for names in benchmarks.values():
        family = next(family for family in COLUMN_FAMILIES if any(re.search(family.of, name) for name in names))
        found[family] += [name for name in headlines(names) if re.search(family.columns, name)]
    return {family: names for family, names in found.items() if names}


def families(rows: Sequence[ModelRow]) -> list[Section]:
    """A section on each family: a row for each column, a cell for each model, chance and the best blind baseline, and
    the same as a plot; none on few benchmarks."""
    models = [row for row in rows if row.kind == MEASURED]
    every = [metric for row in models for metric in row.cells]
    if len({metric.split("/")[0] for metric in every}) <= FEW:
        return []
    marks = {"chance": _best(rows, CHANCE), "best blind": _best(rows, BLIND)}
    return [
        Section(
            family.title,
            ("score", "items", *(row.name for row in models), *marks),
            _lines(models, {metric: metric for metric in metrics}, marks.values()),
            plot=plots.dots(models, {metric: metric for metric in metrics}, marks),
            key=f"columns_{family.key}",
        )
        for family, metrics in columns(every).items()
    ]


def relations(rows: Sequence[ModelRow]) -> list[Section]:
    """The scores by relation of each benchmark that has some, as a heat map and as a plot."""
    models = [row for row in rows if row.kind == MEASURED]
    sections = []
    for prefix in plots.RELATIONS:
        if not (metrics := plots.relations(models, prefix)):
            continue
        labels = {metric: metric.removeprefix(prefix) for metric in metrics}
        numbered = {m: f"{label} ({plots.count(models, m):,})" for m, label in labels.items()}
        lines = _lines(models, labels)
        bold = any(isinstance(cell, Cell) and cell.best for line in lines for cell in line)
        text = ["Bold: the best score of a row, and those that the bootstrap cannot tell from it."] * bold
        of, head = prefix.rsplit("/", 2)[0], ("relation", "items", *(row.name for row in models))
        plot, key = plots.dots(models, numbered), f"by_relation_{of.replace('/', '_')}"
        sections.append(Section(f"By relation: {of}", head, lines, text, heat=True, plot=plot, key=key))
    return sections


def _best(rows: Sequence[ModelRow], kind: str) -> dict[str, Cell]:
    """Metric -> the best score of the rows of a kind."""
    found: dict[str, Cell] = {}
    for metric, cell in itertools.chain.from_iterable(row.cells.items() for row in rows if row.kind == kind):
        found[metric] = max(cell, found.get(metric, cell), key=lambda one: sign(metric) * one.value)
    return found


def _lines(
    models: Sequence[ModelRow], labels: Mapping[str, str], further: Iterable[Mapping[str, Cell]] = ()
) -> list[list[str | Cell | None]]:
    """A line for each metric: its label, its number of items, and its cells."""
    scores = [*(row.cells for row in models), *further]
    numbers = {metric: plots.count(models, metric) for metric in labels}
    return [
        [label, f"{number:,}" if (number := numbers[metric]) else tables.MISSING, *(row.get(metric) for row in scores)]
        for metric, label in labels.items()
    ]


def forgetting(
    rows: Sequence[ModelRow], bases: Mapping[str, str], changes: Mapping[str, Mapping[str, Change]]
) -> list[Section]:
    """What models gained and forgot, as a plot: their mean scores, or, if some have a base among ``rows``, the changes
    since then, also by family. ``bases``: model -> the model that it started from; ``changes``: see ``Changes``."""
    models = {row.name: row.cells for row in rows if row.kind == MEASURED}
    pairs = {name: base for name, base in bases.items() if name in models and base in models and name != base}
    names = {name: f"{name} since {pairs[name]}" for name in pairs} or {name: name for name in models}
    found = columns([metric for cells in models.values() for metric in cells if sign(metric) > 0])
    shared: dict[str, dict[ColumnFamily, list[str]]] = {}
    for name in names:
        compared: list[Mapping[str, Any]] = [*models.values()]
        if pairs:
            compared = [models[name], models[pairs[name]], changes.get(name, {})]
        shared[name] = {
            family: _once([m for m in all_ if all(m in known for known in compared)]) for family, all_ in found.items()
        }

    def mean(name: str, metrics: Sequence[str]) -> Cell | None:
        if not metrics:
            return None
        if name in pairs:
            return _mean_change([changes[name][metric] for metric in metrics])
        return Cell(float(np.mean([models[name][metric].value for metric in metrics])), None, len(metrics))

    points: dict[str, tuple[Cell, Cell] | None] = {}
    for name in models:
        sides = [[m for f, ms in shared.get(name, {}).items() if f.kept == kept for m in ms] for kept in (True, False)]
        kept, gained = (mean(name, metrics) for metrics in sides)
        points[names.get(name, name)] = (kept, gained) if kept and gained else None
    plot = plots.forgetting_against_gain(points, change=bool(pairs))
    if not pairs:
        return [Section(_FORGETTING, plot=plot, key="forgetting")] if plot else []
    lines: list[list[str | Cell | None]] = [
        [family.title, *(_change(mean(name, of_name[family])) for name, of_name in shared.items())] for family in found
    ]
    return [Section(_FORGETTING, ("family", *names.values()), lines, [_CHANGED], plot=plot, key="forgetting")]


def _once(metrics: Collection[str]) -> list[str]:
    """The metrics that a mean is over: photos that are classified with two sets of prompts count once, with CLIP's."""
    twice = {metric.replace("zeroshot/", "zeroshot_siglip/", 1) for metric in metrics if metric.startswith("zeroshot/")}
    return [metric for metric in metrics if metric not in twice]


def _mean_change(changes: Sequence[Change]) -> Cell:
    """The mean of ``changes``, its interval, and how many they are."""
    known_MR = np.array([change.resampled_R for change in changes])  # NaN: none of a few images is in the resample
    interval = confidence.bounds(np.nanmean(known_MR[:, ~np.isnan(known_MR).all(axis=0)], axis=0))
    return Cell(float(np.mean([change.value for change in changes])), interval, len(changes))


def _change(cell: Cell | None) -> str:
    if cell is None:
        return tables.MISSING
    interval = f"{cell.interval[0]:+.3f} to {cell.interval[1]:+.3f}; " if cell.interval else ""
    return f"{cell.value:+.3f} ({interval}{cell.count})"


class Changes:
    """How much the scores of models change since their bases, on the items that both were scored on, and on resamples
    of the images of all benchmarks, which may share some; added up one benchmark at a time, since items fill the
    memory. ``bases``: model -> its base."""

    def __init__(self, bases: Mapping[str, str]) -> None:
        self._bases = bases
        self._images: dict[str, int] = {}  # image -> its number
        self._sums: dict[tuple[str, str], confidence.Sums] = {}  # (model, metric) -> those of the model and its base

    def add(self, of_benchmark: Sequence[Result], items: Items) -> None:
        """Adds the results of one benchmark; ``items``: model -> its rows of ``items.parquet``."""
        results = {result.model: result for result in of_benchmark}
        for name, base in self._bases.items():
            if name not in results or base not in results or name == base:
                continue
            rows = [{row["id"]: row for row in items[model]} for model in (name, base)]
            shared = [ties.item(row) for key, row in rows[0].items() if key in rows[1]]
            names = [metric for of_family in columns([*results[name].metrics]).values() for metric in of_family]
            metrics = tuple(results[name].metrics[metric] for metric in names)
            outcomes = [ties.outcomes(of_model, [item.id for item in shared], metrics) for of_model in rows]
            benchmark = ties.resampled(results[name].benchmark, shared, metrics)
            images = [confidence.image_of(item, benchmark.together) for item in shared]
            numbers_N = [self._images.setdefault(image, len(self._images)) for image in images]
            of_metrics = confidence.sums_by_image(benchmark, shared, outcomes, np.array(numbers_N, int))
            self._sums.update(((name, metric), sums) for metric, sums in of_metrics.items())

    def found(self) -> dict[str, dict[str, Change]]:
        """Model -> metric -> its change, of those that it and its base were scored in on the same items."""
        found: dict[str, dict[str, Change]] = {}
        for (name, metric), (values_S, scores_SR) in confidence.resample_sums(
            self._sums, len(self._images), _RESAMPLES
        ):
            found.setdefault(name, {})[metric] = Change(float(values_S[0] - values_S[1]), scores_SR[0] - scores_SR[1])
        return found


class Agreement:
    """How far models agree, added up one benchmark at a time, since items fill the memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}  # models -> first metric -> both

    def add(self, of_benchmark: Sequence[Result], items: Items) -> None:
        """Adds the results of one benchmark; ``items``: model -> its rows of ``items.parquet``."""
        first = next((metric for result in of_benchmark for metric in result.metrics.values()), None)
        if first is None:
            return
        column = OUTCOME + first.outcome
        right = {
            model: {row["id"]: known[0] for row in rows if (known := are_right([row], column))}
            for model, rows in items.items()
        }
        for a, b in itertools.combinations(right, 2):
            if shared := right[a].keys() & right[b].keys():
                counts = np.zeros((2, 2))
                for key in shared:
                    counts[int(right[a][key]), int(right[b][key])] += 1
                self._found.setdefault((a, b), {})[first.name] = share_and_kappa(counts)

    def section(self, models: Sequence[str]) -> list[Section]:
        """The matrix, if there are two models that share items."""
        if not self._found:
            return []
        columns_of = {pair: np.array([of[name] for name in _once(of)]).T for pair, of in self._found.items()}
        known = {pair: [one[~np.isnan(one)] for one in both] for pair, both in columns_of.items()}  # kappa may be NaN
        means = {pair: [one.mean() if len(one) else np.nan for one in both] for pair, both in known.items()}
        either = means | {pair[::-1]: values for pair, values in means.items()}
        lines: list[list[str | Cell | None]] = []
        for n, a in enumerate(models):
            shown = [either.get((a, b), (np.nan, np.nan))[int(k < n)] for k, b in enumerate(models)]
            lines.append([a, *(tables.MISSING if np.isnan(value) else f"{value:.2f}" for value in shown)])
        return [Section("Agreement between models", ("", *models), lines, [_AGREEMENT])]


def share_and_kappa(counts: np.ndarray) -> tuple[float, float]:
    """The share of items that two models agree on, and Cohen's kappa, NaN if neither ever differs from itself.
    ``counts``: [wrong or right, wrong or right], items by the first and the second model (Cohen 1960)."""
    joint = counts / counts.sum()
    share, expected = float(np.trace(joint)), float(joint.sum(axis=1) @ joint.sum(axis=0))
    return share, (share - expected) / (1 - expected) if expected < 1 else float("nan")
