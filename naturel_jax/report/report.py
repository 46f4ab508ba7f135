"""The report on evaluated models, or on the runs of a suite: tables, plots, and all scores."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
    files,
    gallery,
    leakage,
    overview,
    page,
    pairs,
    plots,
    provenance,
    published,
    tables,
    text_alone,
    ties,
)
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.seeds import Evaluated
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, PUBLISHED, Cell, Cited, ModelRow
from tfds_naturel.common import escape

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
    return save(epath.Path(out), made)


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


def save(folder: epath.Path, report: Report) -> str:
    """Writes ``report.md``, ``.tex``, ``.html``, ``scores.csv`` and plots to ``folder``; returns the tables in
    Markdown."""
    rows = report.rows
    models = [row for row in rows if row.kind == MEASURED]
    shown = tables.tables_of(metric for row in models for metric in row.cells)
    chance = {metric: cell.value for row in rows if row.kind == CHANCE for metric, cell in row.cells.items()}
    accuracy = plots.accuracy_over_training(report.histories, report.score, chance)
    curves = [
        Section("Training loss", plot=plots.loss_over_training(report.losses), key="loss"),
        Section("Accuracy during training", plot=accuracy, key="accuracy"),
    ]
    families = overview.families(rows)
    further = [*(one for one in curves if one.plot), *families]
    further += [*overview.forgetting(rows, report.bases, report.changes), *report.agreement, *overview.relations(rows)]
    text = "\n".join(tables.markdown(table, rows) for table in shown) + "".join(
        f"\n{line}\n" for line in [*_legend(report, _MARGIN, escape.markdown), *map(_section, report.sections)]
    )
    poster = {table.caption for table in tables.TABLES}
    folded = [table for table in shown if families and table.caption not in poster]  # families have their scores
    open_html = [tables.html(table, rows) for table in shown if table not in folded]
    folded_html = [tables.html(table, rows) for table in folded]
    legend = _legend(report, _RANGE, escape.line)
    in_latex = [*(tables.latex(table, rows) for table in shown), *(_latex(one) for one in further if one.rows)]
    contents: dict[str, str | bytes] = {f"{one.key}.png": one.plot.png for one in further if one.plot}
    texts = (
        _markdown(text, further, report),
        "\n".join([_PACKAGES, *in_latex]),
        page.fill(report, open_html, folded_html, legend, further),
        tables.to_csv(rows),
    )
    for name, content in (contents | dict(zip(files.TEXTS, texts, strict=True))).items():
        storage.write(folder / name, content)
    return text


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


def _legend(report: Report, interval: str, plain: Callable[[str], str]) -> list[str]:
    """Explanations of ``interval``, of the number of seeds and of those marks that occur in the tables; ``plain``
    escapes names."""
    cells = [cell for row in report.rows for cell in row.cells.values()]
    several = any(number > 1 for number in report.seeds.values())
    by = "seeds and images" if several else "a bootstrap over images"
    kinds = {row.kind for row in report.rows}
    bold = f"Bold: the best score of a column, and those that {by} (95%) cannot tell from it."
    tied = "; ".join(map(plain, report.ties))
    lines = [
        (f"{interval}, {'over' if several else 'from'} {by}.", any(cell.interval for cell in cells)),
        (_of_seeds(report.seeds), any(row.cells for row in report.rows if row.kind == MEASURED)),
        (bold, any(cell.best for cell in cells)),
        (
            f"{tables.INCOMPLETE} Fewer items than published: images unreadable or trained on, or a twin.",
            any(c.incomplete for c in cells),
        ),
        ("In italics, with a source: published scores on the same items.", PUBLISHED in kinds),
        ("In italics, without a source: baselines that read the captions and never see an image.", BLIND in kinds),
        (
            f"{text_alone.NAME.capitalize()}: how many of such pairs of the caption bank they told by their text; the "
            "interval counts the pairs that they read.",
            any(row.name == text_alone.NAME for row in report.rows),
        ),
        ("Chance: the expected score of a guess.", CHANCE in kinds),
        (f"Ties, items whose right and wrong answers score the same: {tied}.", bool(tied)),
    ]
    return [line for line, occurs in lines if occurs]


def _of_seeds(seeds: Mapping[str, int]) -> str:
    """How many seeds the scores are means of."""
    numbers = sorted(set(seeds.values()) or {1})
    if numbers == [1]:
        return "One seed: each model was trained once, so nothing here says how much another seed would change."
    if len(numbers) == 1:
        return f"Means of {numbers[0]} seeds."
    ones = [name for name, number in seeds.items() if number == 1]
    several = ", ".join(f"{name} {number}" for name, number in seeds.items())
    return f"Means over seeds: {several}." + f" One seed, whose interval counts images only: {', '.join(ones)}." * bool(
        ones
    )


def _latex(section: Section) -> str:
    """The table of a section in LaTeX."""
    lines = [tables.latex_line(section.head), r"\midrule", *map(tables.latex_line, section.rows)]
    return tables.latex_table(section.title, len(section.head) - 1, lines)


def _section(section: Section) -> str:
    """A section in Markdown."""
    parts = [f"## {escape.markdown(section.title)}"]
    if section.rows:
        others = ":---" if section.words else "---:"
        lines = [section.head, [":---", *[others] * (len(section.head) - 1)], *section.rows]
        parts.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
    parts += map(escape.markdown, section.text)
    if section.plot:
        parts.append(f"![{section.plot.text}]({section.key}.png)")
    if section.command:
        parts.append(f"```bash\n{section.command}\n```")
    return "\n\n".join(parts)


def _cell(cell: str | Cell | Cited | None) -> str:
    if isinstance(cell, tuple):
        return "; ".join(escape.markdown(text) + f" ([source]({source}))" * bool(source) for text, source in cell)
    if not isinstance(cell, str):
        return tables.markdown_cell(cell)
    plain = re.fullmatch(r"[-+:.\d (]+( to [-+.\d]+)?(; \d+)?\)?", cell)  # numbers, intervals and rules
    return cell if plain else escape.markdown(cell)


_RANGE = "Ranges: 95% confidence intervals"
_MARGIN = "±: half the width of the 95% confidence interval (bounds in scores.csv)"
_PACKAGES = r"% \usepackage{booktabs,graphicx}"


def _markdown(text: str, further: Sequence[Section], report: Report) -> str:
    parts = [f"# {escape.markdown(report.title)}", text.rstrip("\n"), *map(_section, further)]
    if report.left_out:
        lines = "\n".join(f"- {escape.markdown(line)}" for line in report.left_out)
        parts.append(f"## What the scores leave out\n\n{lines}")
    parts += map(_section, report.trained_on)
    return "\n\n".join(parts) + "\n"
