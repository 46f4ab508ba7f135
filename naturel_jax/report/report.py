"""The report on evaluated models, or on the runs of a suite: tables, plots, and all scores."""

import csv
import dataclasses
import html
import importlib.resources
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import is_headline
from naturel_jax.evaluators import results
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.results import LeftOut, Result
from naturel_jax.report import leakage, plots, published, tables, ties
from naturel_jax.report.plots import History
from naturel_jax.report.seeds import Evaluated
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, PUBLISHED, Cell, ModelRow
from tfds_naturel.common import escape, pages

_FILES = importlib.resources.files("naturel_jax.report")
_MAX_QUOTED = 4  # most metrics that a line quotes for a benchmark without headline metrics


class Section(NamedTuple):
    """A further part of a report: a table, text, and a command."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: Sequence[str] = ()
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """``rows``: models, published systems, baselines. ``histories``: model -> the scores of its runs during training.
    ``left_out``: what the scores leave out, one line each. ``trained_on``: which images may have been trained on.
    ``seeds``: model -> number of seeds that its scores are means of; empty: one of each. ``score``: see ``plots``.
    ``ties``: items whose right and wrong answers score the same, one line for each model and benchmark with any."""

    rows: Sequence[ModelRow]
    histories: Mapping[str, Sequence[History]]
    left_out: Sequence[str] = ()
    trained_on: Sequence[leakage.Line] = ()
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sections: Sequence[Section] = ()
    score: str = ""
    ties: Sequence[str] = ()


def write(out: Path, histories: Mapping[str, History] | None = None) -> str:
    """Reports on the results in ``out``, into the same folder; returns the tables in Markdown. Raises UserError for a
    file that is not a result."""
    all_results = results.load(out)
    order = {model: n for n, model in enumerate(published.POSTER)}  # the poster's models first, as it orders them
    all_results.sort(key=lambda result: order.get(result.model, len(order)))
    places = {result.model: Evaluated(out, result.model) for result in all_results}
    runs = {name: [history] for name, history in (histories or {}).items()}
    return save(epath.Path(out), of_results(all_results, places, runs))


def of_results(
    all_results: Sequence[Result], places: Mapping[str, Evaluated], histories: Mapping[str, Sequence[History]]
) -> Report:
    """The report on results whose ``model`` is the name of a row; ``places``: row -> where its items are."""
    best: set[tuple[str, str]] = set()
    official = []
    for benchmark in dict.fromkeys(result.benchmark for result in all_results):  # one at a time: items fill the memory
        of_benchmark = [result for result in all_results if result.benchmark == benchmark]
        items = {result.model: _items(places[result.model], benchmark) for result in of_benchmark}
        best |= _best(of_benchmark, items)
        if any(not r.problems and published.is_official(benchmark, items[r.model]) for r in of_benchmark):
            official.append(benchmark)
    rows = [*_measured(all_results, best), *published.rows(official), *_blind(all_results)]
    rows += chance_row({name: value for result in all_results for name, value in (result.chance or {}).items()})
    tied = [f"{r.model} on {r.benchmark}: {r.ties:,} of {r.items:,}" for r in all_results if r.ties]
    return Report(rows, histories, _left_out(all_results), leakage.lines(all_results), ties=tied)


def of_runs(
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Intervals],
    histories: Mapping[str, History],
    left_out: Sequence[LeftOut] = (),
    text_only: Mapping[str, float] | None = None,
    evaluated: Mapping[str, Evaluated] | None = None,
) -> Report:
    """The report on the final scores of runs: model -> {metric: score}, and model -> {metric: interval}.
    ``text_only``: metric -> score of n-grams, which see no image. ``evaluated``: model -> its results item by item,
    which runs of earlier versions have not left."""
    places = evaluated or {}
    found = [
        dataclasses.replace(result, model=model)
        for model, place in places.items()
        for result in results.load(place.out)
        if result.model == place.model and not result.metrics.keys().isdisjoint(scores[model])
    ]
    made = of_results(found, places, {name: [history] for name, history in histories.items()})
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
    return dataclasses.replace(made, rows=rows, trained_on=leakage.lines(left_out))


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
    drawn: dict[str, Callable[..., bytes | None]] = {
        "accuracy": lambda **theme: plots.accuracy_over_training(report.histories, report.score, chance, **theme),
        "by_relation": lambda **theme: plots.by_relation(models, **theme),
        "forgetting": lambda **theme: plots.forgetting_against_gain(models, **theme),
    }
    images = {name: image for name, draw in drawn.items() if (image := draw())}
    text = "\n".join(tables.markdown(table, rows) for table in shown) + "".join(
        f"\n{line}\n" for line in [*_legend(report, _MARGIN, escape.markdown), *map(_section, report.sections)]
    )
    files = {f"{name}.png": image for name, image in images.items()} | {
        "report.md": _markdown(text, images, report),
        "report.tex": "\n".join(tables.latex(table, rows) for table in shown),
        "report.html": _html(
            [tables.html(table, rows) for table in shown],
            _legend(report, _RANGE, escape.line),
            {name: (image, drawn[name](dark=True) or image) for name, image in images.items()},
            report,
        ),
        "scores.csv": _csv(rows),
    }
    for name, content in files.items():
        storage.write(folder / name, content)
    return text


def _items(place: Evaluated, benchmark: str) -> list[dict[str, Any]]:
    """The rows behind a result; empty if they are missing, damaged or from another evaluation."""
    try:
        return results.load_items(place.out, place.model, benchmark, without=("boxes", "cosines"))
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
    """The (model, metric) pairs that are the best of their column, for columns shown for several models."""
    scored: dict[str, dict[str, ties.Scored]] = {}  # metric -> model -> score
    shown = tables.tables_of(name for result in of_benchmark for name in result.metrics)
    metrics = {column.metric for table in shown for column in table.columns}
    for result in of_benchmark:
        by_id, scores = {item["id"]: item for item in items[result.model]}, cells(result)
        for name in metrics & result.metrics.keys() & scores.keys() if by_id else ():
            scored.setdefault(name, {})[result.model] = ties.Scored(scores[name], result.metrics[name], by_id)
    return {(model, name) for name, models in scored.items() if len(models) > 1 for model in ties.best(models)}


def _measured(all_results: Sequence[Result], best: set[tuple[str, str]]) -> list[ModelRow]:
    """A row for each model."""
    rows: dict[str, dict[str, Cell]] = {}
    for result in all_results:
        marked = {
            name: dataclasses.replace(cell, best=(result.model, name) in best) for name, cell in cells(result).items()
        }
        rows.setdefault(result.model, {}).update(marked)
    return [ModelRow(model, MEASURED, cells) for model, cells in rows.items()]


def _blind(all_results: Sequence[Result]) -> list[ModelRow]:
    """A row for each baseline that reads only the captions; ``text norm`` has one for each model."""
    cells: dict[str, dict[str, Cell]] = {}
    for result in all_results:
        for baseline, values in result.blind.items():
            name = f"{baseline} of {result.model}" if baseline == "text norm" else baseline
            cells.setdefault(name, {}).update({metric: Cell(value) for metric, value in values.items()})
    return [ModelRow(name, BLIND, row) for name, row in cells.items()]


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
    metrics = [m for m in result.with_trained_on if is_headline(m)] or list(result.with_trained_on)[:_MAX_QUOTED]
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
    resampled = "seeds and images" if any(number > 1 for number in report.seeds.values()) else "images"
    kinds = {row.kind for row in report.rows}
    bold = f"Bold: the best score of a column, and those that a bootstrap over {resampled} (95%) cannot tell from it."
    tied = "; ".join(map(plain, report.ties))
    lines = [
        (f"{interval}, from a bootstrap over {resampled}.", any(cell.interval for cell in cells)),
        (_of_seeds(report.seeds), MEASURED in kinds),
        (bold, any(cell.best for cell in cells)),
        (
            f"{tables.INCOMPLETE} Fewer items than published: images unreadable or trained on.",
            any(c.incomplete for c in cells),
        ),
        ("In italics, with a source: published scores on the same items.", PUBLISHED in kinds),
        ("In italics, without a source: baselines that read the captions and never see an image.", BLIND in kinds),
        ("Chance: the expected score of a guess.", CHANCE in kinds),
        (f"Ties, items of which a right and a wrong answer score the same: {tied}.", bool(tied)),
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


def _by_relation(report: Report) -> list[Section]:
    """The scores that the plot by relation shows, with their numbers of items."""
    models = [row for row in report.rows if row.kind == MEASURED]
    sections = []
    for prefix in plots.RELATIONS:
        rows = []
        for metric in plots.relations(models, prefix):
            cells = (row.cells.get(metric) for row in models)
            scores = [cell.text if cell else tables.MISSING for cell in cells]
            rows.append([metric.removeprefix(prefix), f"{plots.count(models, metric):,}", *scores])
        if rows:
            head = ("relation", "items", *(row.name for row in models))
            sections.append(Section(f"By relation: {prefix.rsplit('/', 2)[0]}", head, rows))
    return sections


def _section(section: Section) -> str:
    """A section in Markdown."""
    parts = [f"## {escape.markdown(section.title)}"]
    if section.rows:
        lines = [section.head, [":---", *["---:"] * (len(section.head) - 1)], *section.rows]
        plain = re.compile(r"[-+:\d.]+( to [-+\d.]+)?|---:")  # numbers and rules
        cells = [[cell if plain.fullmatch(cell) else escape.markdown(cell) for cell in line] for line in lines]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    parts += map(escape.markdown, section.text)
    if section.command:
        parts.append(f"```bash\n{section.command}\n```")
    return "\n\n".join(parts)


def _section_html(section: Section) -> str:
    """A section in HTML."""
    body = f"<h2>{html.escape(section.title)}</h2>"
    if section.rows:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(first)}</th>{"".join(f"<td>{html.escape(c)}</td>" for c in others)}</tr>'
            for first, *others in section.rows
        )
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in section.head)
        body += (
            f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(section.title)}"><table><thead>'
            f"<tr>{head}</tr></thead><tbody class=measured>{rows}</tbody></table></div>"
        )
    body += "".join(f"<p>{html.escape(line)}</p>" for line in section.text)
    return body + f'<pre class="wide" tabindex="0">{html.escape(section.command)}</pre>' * bool(section.command)


_MARGIN = "±: half the width of the 95% confidence interval (bounds in scores.csv)"
_RANGE = "Ranges: 95% confidence intervals"
_TITLES = {
    "accuracy": (
        "Accuracy during training",
        "Accuracy by training step, the mean and range of several seeds; the numbers are in metrics.jsonl.",
    ),
    "by_relation": (
        "By relation",
        "Accuracy of each model on each relation with its 95% interval; the numbers are in scores.csv.",
    ),
    "forgetting": (
        "Forgetting against gain",
        "Mean accuracy on compositions against mean retrieval and zero-shot accuracy; the numbers are in the tables.",
    ),
}


def _markdown(text: str, images: Mapping[str, bytes], report: Report) -> str:
    parts = ["# Report", text.rstrip("\n")]
    parts += [f"## {_TITLES[name][0]}\n\n![{_TITLES[name][1]}]({name}.png)" for name in images]
    parts += map(_section, _by_relation(report))
    if report.left_out:
        lines = "\n".join(f"- {escape.markdown(line)}" for line in report.left_out)
        parts.append(f"## What the scores leave out\n\n{lines}")
    parts += leakage.markdown(report.trained_on)
    return "\n\n".join(parts) + "\n"


def _html(
    shown: Sequence[str], legend: Sequence[str], images: Mapping[str, tuple[bytes, bytes]], report: Report
) -> str:
    """``images``: name -> image for light and for dark pages."""
    body = "\n".join([*shown, *(f"<p>{html.escape(line)}</p>" for line in legend)])
    body += "".join(map(_section_html, report.sections))
    figures = ""
    for name, themes in images.items():
        title, description = map(html.escape, _TITLES[name])
        light, dark = (pages.data_uri("png", image) for image in themes)
        figures += (
            f'<section><h2>{title}</h2><figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img alt="{description}" src="{light}"></picture></figure></section>\n'
        )
    body += f'\n<div class="plots">\n{figures}</div>' if figures else ""
    body += "".join(map(_section_html, _by_relation(report)))
    if report.left_out:
        lines = "".join(f"<li>{html.escape(escape.line(line))}</li>" for line in report.left_out)
        body += f"\n<h2>What the scores leave out</h2><ul>{lines}</ul>"
    body += "".join(leakage.html(report.trained_on))
    return pages.fill(_FILES / "report.html", body=body)


def _csv(rows: Sequence[ModelRow]) -> str:
    """One score per line, with its confidence interval and number of items where they are known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = ("model", "benchmark", "metric", "value", "low", "high", "count", "incomplete", "kind", "with_trained_on")
    writer.writerow(header)
    for row in rows:
        for metric, cell in row.cells.items():
            names = (escape.cell(name) for name in (row.name, metric.split("/")[0], metric))
            interval = cell.interval or ("", "")
            count = "" if cell.count is None else cell.count
            whole = "" if cell.with_trained_on is None else cell.with_trained_on
            writer.writerow([*names, cell.value, *interval, count, int(cell.incomplete), row.kind, whole])
    return buffer.getvalue()
