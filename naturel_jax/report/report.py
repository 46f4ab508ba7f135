"""What the report on evaluated models, or on the runs of a suite, has."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import blind, shortcuts
from naturel_jax.benchmarks.benchmark import headlines
from naturel_jax.checkpoints import recorded
from naturel_jax.evaluators import examples, results
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.results import LeftOut, Result
from naturel_jax.report import (
    clip_benchmark,
    gallery,
    leakage,
    overview,
    pairs,
    plots,
    provenance,
    published,
    tables,
    text_alone,
    ties,
    writing,
)
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.seeds import Evaluated
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, PUBLISHED, Cell, ModelRow

_MAX_QUOTED = 12  # most metrics of a benchmark that a line quotes


def write(
    out: Path,
    runs: Mapping[str, Sequence[epath.Path]] | None = None,
    accelerators: str = tables.MISSING,
    bases: Mapping[str, str] = MappingProxyType({}),
    galleries: Collection[str] = (),
) -> str:
    """Reports on the results in ``out``, into the same folder; returns the tables in Markdown. ``runs``: the models
    that are runs, and their folders; ``accelerators``: see ``provenance``; ``bases``: model -> the model that it
    started from; ``galleries``: the benchmarks with a page of their items, which scores link to. Raises UserError for a
    file that is not a result."""
    all_results = results.load(out)
    order = {one.name: n for n, one in enumerate(published.CHECKPOINTS.values())}  # the poster's first, as it has them
    all_results.sort(key=lambda result: order.get(result.model, len(order)))
    places = {result.model: Evaluated(out, result.model) for result in all_results}
    named = " and ".join(places) if len(places) < 3 else f"{len(places)} models"
    number = len({result.benchmark for result in all_results})
    title = f"Evaluation of {named} on {number} benchmark{'s' * (number > 1)}" if places else "Evaluation of no model"
    made = dataclasses.replace(of_results(all_results, places, galleries, bases), title=title)
    made = with_runs(made, runs or {}, accelerators=accelerators)
    (out / clip_benchmark.FOLDER).mkdir(parents=True, exist_ok=True)
    for name, content in clip_benchmark.files(all_results).items():
        storage.write(epath.Path(out / clip_benchmark.FOLDER / name), content)
    return writing.save(epath.Path(out), made)


def with_runs(
    report: Report,
    runs: Mapping[str, Sequence[epath.Path]],
    recipe: Sequence[str] = (),
    accelerators: str = tables.MISSING,
) -> Report:
    """The report with what ``runs`` (row -> the folders of its seeds) recorded, and where they come from; ``recipe``,
    ``accelerators``: see ``provenance``."""
    found = {name: [recorded.read(folder) for folder in folders] for name, folders in runs.items()}
    firsts = {name: provenance.RunFolder(folders[0], found[name][0].ended) for name, folders in runs.items()}
    return dataclasses.replace(
        report,
        histories={name: [run.history for run in of_row] for name, of_row in found.items()},
        losses={name: [run.losses for run in of_row] for name, of_row in found.items()},
        made=provenance.sections(firsts, recipe, accelerators),
    )


def of_results(
    all_results: Sequence[Result],
    places: Mapping[str, Evaluated],
    galleries: Collection[str] = (),
    bases: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """The report on results whose ``model`` is the name of a row; ``places``: row -> where its items are;
    ``galleries``, ``bases``: see ``write``."""
    best: set[tuple[str, str]] = set()
    official, agreement, changes = [], overview.Agreement(), overview.Changes(bases)
    others: list[str] = []
    by_readers: dict[str, Cell] = {}
    for benchmark in dict.fromkeys(result.benchmark for result in all_results):  # one at a time: items fill the memory
        of_benchmark = [result for result in all_results if result.benchmark == benchmark]
        items = {result.model: _items(places[result.model], benchmark) for result in of_benchmark}
        known = dict[str, dict[str, Any]]()
        alike = {model: pairs.alike(rows, known) for model, rows in items.items()}
        others += [
            f"{model} on {benchmark}: {more:,} items have the ids of other models' items, but other images, "
            "captions or labels, so these are not compared; evaluate all on the same files"
            for model, rows in items.items()
            if (more := len(rows) - len(alike[model]))
        ]
        best |= _best(of_benchmark, alike)
        agreement.add(of_benchmark, alike)
        changes.add(of_benchmark, alike)
        for result in of_benchmark:
            by_readers |= text_alone.cells(result, items[result.model])
        if any(not r.problems and published.is_official(benchmark, items[r.model]) for r in of_benchmark):
            official.append(benchmark)
    rows = [*_measured(all_results, best, galleries), *published.rows(official), *_blind(all_results)]
    rows += text_alone.row(by_readers)
    rows += chance_row({name: value for result in all_results for name, value in result.chance.items()})
    tied = [f"{r.model} on {r.benchmark}: {r.ties:,} of {r.items:,}" for r in all_results if r.ties]
    folders = {name: epath.Path(place.out / results.file_name(place.model)) for name, place in places.items()}
    shown = {name: examples.load(folder) for name, folder in folders.items()}
    return Report(
        rows,
        left_out=[*_left_out(all_results), *others],
        trained_on=leakage.sections(all_results),
        sections=_without_shortcuts(all_results),
        ties=tied,
        examples=shown,
        bases=bases,
        changes=changes.found(),
        agreement=agreement.section(list(places)),
    )


def of_runs(
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Intervals],
    left_out: Sequence[LeftOut] = (),
    text_only: Mapping[str, float] | None = None,
    evaluated: Mapping[str, Evaluated] | None = None,
) -> Report:
    """The report on the final scores of runs: model -> {metric: score}, and model -> {metric: interval}.
    ``text_only``: metric -> score of n-grams, which see no image. ``evaluated``: model -> its results item by item."""
    places = evaluated or {}
    found = [
        dataclasses.replace(result, model=model)
        for model, place in places.items()
        for result in results.load(place.out)
        if result.model == place.model and not result.metrics.keys().isdisjoint(scores[model])
    ]
    made = of_results(found, places)
    itemized = {row.name: row.cells for row in made.rows if row.kind == MEASURED}
    rows = [
        ModelRow(
            model,
            MEASURED,
            {name: Cell(value, intervals[model].get(name)) for name, value in row.items()}
            | {name: cell for name, cell in itemized.get(model, {}).items() if name in row},
        )
        for model, row in scores.items()
    ]
    if text_only:
        rows.append(ModelRow("n-grams", BLIND, {name: Cell(value) for name, value in text_only.items()}))
    rows += [row for row in made.rows if row.kind != MEASURED]
    rows.sort(key=lambda row: (MEASURED, PUBLISHED, BLIND, CHANCE).index(row.kind))
    return dataclasses.replace(made, rows=rows, trained_on=leakage.sections(left_out))


def chance_row(chance: Mapping[str, float]) -> list[ModelRow]:
    """The row of a guess; ``chance``: metric -> its expected score."""
    return [ModelRow("chance", CHANCE, {name: Cell(value) for name, value in chance.items()})] if chance else []


def _items(place: Evaluated, benchmark: str) -> list[dict[str, Any]]:
    """The rows behind a result; empty if they are missing, damaged or from another evaluation."""
    try:
        return results.load_items(place.out, place.model, benchmark, without=("cosines",))
    except (OSError, ValueError):
        return []


def cells(result: Result) -> dict[str, Cell]:
    """Metric -> cell, not yet marked as the best."""
    return {
        name: Cell(
            score["value"],
            (float(score["low"]), float(score["high"])),
            int(score["count"]),
            result.incomplete,
            with_trained_on=result.with_trained_on.get(name),
        )
        for name, score in result.scores.items()
    }


def _best(of_benchmark: Sequence[Result], items: Mapping[str, list[dict[str, Any]]]) -> set[tuple[str, str]]:
    """The (model, metric) pairs that are the best of the models, for the metrics that are shown for several."""
    scored: dict[str, dict[str, ties.Scored]] = {}  # metric -> model -> score
    shown = tables.tables_of(name for result in of_benchmark for name in result.metrics)
    metrics = {column.metric for table in shown for column in table.columns}
    metrics |= {name for result in of_benchmark for name in headlines(result.metrics)}
    metrics |= {name for result in of_benchmark for name in result.metrics if name.startswith(plots.RELATIONS)}
    for result in of_benchmark:
        scores = cells(result) if items[result.model] else {}
        for name in metrics & result.metrics.keys() & scores.keys():
            scored.setdefault(name, {})[result.model] = ties.Scored(scores[name], result.metrics[name])
    by_id = {model: {item["id"]: item for item in rows} for model, rows in items.items()}
    return ties.best({name: models for name, models in scored.items() if len(models) > 1}, by_id)


def _measured(all_results: Sequence[Result], best: set[tuple[str, str]], galleries: Collection[str]) -> list[ModelRow]:
    """A row for each model."""
    rows: dict[str, dict[str, Cell]] = {}
    for result in all_results:
        linked = result.metrics if result.benchmark in galleries else {}
        links = {name: gallery.address(result.benchmark, result.model, metric) for name, metric in linked.items()}
        rows.setdefault(result.model, {}).update(
            (name, dataclasses.replace(cell, best=(result.model, name) in best, link=links.get(name, "")))
            for name, cell in cells(result).items()
        )
    return [ModelRow(model, MEASURED, cells) for model, cells in rows.items()]


def _blind(all_results: Sequence[Result]) -> list[ModelRow]:
    """A row for each baseline that reads only the captions; those of a model's text tower have one for each model."""
    cells: dict[str, dict[str, Cell]] = {}
    for result in all_results:
        for baseline, values in result.blind.items():
            name = f"{baseline} of {result.model}" if baseline in ("text norm", blind.EMBEDDING) else baseline
            cells.setdefault(name, {}).update({metric: Cell(value) for metric, value in values.items()})
    return [ModelRow(name, BLIND, row) for name, row in cells.items()]


def _without_shortcuts(all_results: Sequence[Result]) -> list[Section]:
    """The scores on all items, on those that are order only, and on those not solved blind, where they are known."""
    metrics = (name for result in all_results if result.shortcuts for name in result.scores)
    rows = []
    for metric in (column.metric for table in tables.tables_of(metrics) for column in table.columns):
        for result in all_results:
            if result.shortcuts and metric in result.scores:
                columns = (result.scores, *(result.shortcuts.get(part, {}) for part in _PARTS))
                rows.append([metric, result.model, *(_score_and_count(scores.get(metric)) for scores in columns)])
    text = [
        "Order-only: items whose true and false captions have the same words. Not solved blind: items that a logistic "
        "regression on words, pairs of neighbours and lengths, fitted to other images, gets wrong; where no text can "
        "win, all items. In brackets: 95% intervals, and numbers of items."
    ]
    return [Section("Without shortcuts", ("score", "model", "all", *_PARTS), rows, text, words=True)] if rows else []


_PARTS = (shortcuts.ORDER_ONLY, shortcuts.UNSOLVED)


def _score_and_count(score: Mapping[str, float] | None) -> str:
    if score is None:
        return tables.MISSING
    return f"{score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f}; {score['count']:,})"


def _left_out(all_results: Sequence[Result]) -> list[str]:
    """One line per result that leaves items out, or whose benchmark had problems."""
    lines = []
    for result in all_results:
        if result.problems or result.incomplete:
            number = f" of {result.published:,} published" if result.published else ""
            number += f" items{_trained_on(result)}"
            first = f"; the first problem: {result.problems[0]}" if result.problems else ""
            lines.append(f"{result.model} on {result.benchmark}: {result.items:,}{number}{first}")
    return lines


def _trained_on(result: Result) -> str:
    """Number of items left out because their images were trained on, and the scores without and with them."""
    if not result.left_out:
        return ""
    metrics = headlines(result.with_trained_on)[:_MAX_QUOTED]
    known = {metric: result.with_trained_on[metric] for metric in metrics}
    values = (
        f"{metric} {result.scores[metric]['value']:.3f} without them, {value:.3f} with them"
        if metric in result.scores
        else f"{metric} {value:.3f} with them"
        for metric, value in known.items()
    )
    return f", {result.left_out:,} left out because it was trained on their images ({'; '.join(values)})"
