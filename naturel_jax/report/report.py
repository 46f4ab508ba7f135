"""The report of an evaluation: tables with published numbers for comparison, all scores, and plots."""

import base64
import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from naturel_jax.benchmarks.benchmark import is_headline
from naturel_jax.evaluators import results
from naturel_jax.evaluators.blind import BASELINES
from naturel_jax.evaluators.results import Result
from naturel_jax.report import plots, published, tables
from naturel_jax.report.tables import Scores, Table
from tfds_naturel import escape

NOTE = (
    "In parentheses: the published number and the difference from it. An asterisk marks a score over fewer items than "
    "were published, or without those whose images could not be read or were trained on. Rows in italics are blind "
    "baselines: they read the captions and never see an image."
)
_QUOTED = 4  # metrics of a benchmark without headline metrics that a line about it has
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:85rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1.5rem 0}caption{text-align:left;font-weight:600;margin-bottom:.4rem}"
    "th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th[colspan]{text-align:center}th:first-child,td:first-child{text-align:left}"
    "tbody tr:hover{background:#f5f8ff}img{max-width:100%}"
)


def write(out: Path) -> str:
    """Writes ``report.md``, ``.tex``, ``.html``, ``scores.csv`` and plots from the results in ``out``; returns the
    tables in Markdown.
    """
    all_results = results.load(out)
    scores = _scores(all_results)
    shown = tables.tables_of(scores.measured)
    plotted = _plots(out, all_results, scores)
    left_out = _left_out(all_results)
    text = "\n".join(tables.markdown_scores(table, scores) for table in shown) + f"\n{NOTE}\n"
    images = "".join(f"\n![{title}]({path.name})\n" for title, path in plotted.items())
    lines = [f"- {escape.markdown(line)}" for line in left_out]
    problems = "\n".join(["What the scores leave out:", "", *lines, ""]) if lines else ""
    (out / "report.md").write_text(f"# Report\n\n{text}{images}\n{problems}", "utf-8")
    latex = "\n".join(tables.latex_scores(table, scores) for table in shown)
    (out / "report.tex").write_text(latex, "utf-8")
    (out / "report.html").write_text(_html(shown, scores, plotted, left_out), "utf-8")
    _write_csv(all_results, out / "scores.csv")
    return text


def _scores(all_results: Sequence[Result]) -> Scores:
    measured: dict[str, dict[str, float]] = {}
    blind: dict[str, dict[str, float]] = {}
    incomplete: set[tuple[str, str]] = set()
    order = {model: n for n, model in enumerate(published.POSTER)}  # the poster's models first, as it orders them
    for result in sorted(all_results, key=lambda result: order.get(result.model, len(order))):
        row = measured.setdefault(result.model, {})
        row |= {metric: score["value"] for metric, score in result.scores.items()}
        for baseline, values in result.blind.items():
            name = f"{baseline} of {result.model}" if baseline == "text norm" else baseline
            blind.setdefault(name, {}).update(values)
        if result.incomplete:
            incomplete |= {(result.model, metric) for metric in result.scores}
    return Scores(measured, {model: published.scores_of(model) for model in measured}, frozenset(incomplete), blind)


def _plots(out: Path, all_results: Sequence[Result], scores: Scores) -> dict[str, Path]:
    """Title -> file for the plots that there are results for."""
    counts = {metric: int(score["count"]) for result in all_results for metric, score in result.scores.items()}
    relations, forgetting = out / "by_relation.png", out / "forgetting.png"
    plotted = {}
    if plots.by_relation(scores.measured, counts, relations):
        plotted["By relation"] = relations
    if plots.forgetting_against_gain(scores.measured, forgetting):
        plotted["Forgetting against gain"] = forgetting
    return plotted


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
    """How many items are left out since their images were trained on, and the scores without and with them."""
    if not result.left_out:
        return ""
    metrics = [m for m in result.with_trained_on if is_headline(m)] or list(result.with_trained_on)[:_QUOTED]
    known = {metric: result.with_trained_on[metric] for metric in metrics}
    values = (
        f"{metric} {result.scores[metric]['value']:.3f} without them, {value:.3f} with them"
        if metric in result.scores
        else f"{metric} {value:.3f} with them"
        for metric, value in known.items()
    )
    return f", {result.left_out:,} left out whose images it was trained on ({'; '.join(values)})"


def _html(shown: Sequence[Table], scores: Scores, plotted: Mapping[str, Path], left_out: Sequence[str]) -> str:
    body = "".join(tables.html_scores(table, scores) for table in shown) + f"<p>{html.escape(NOTE)}</p>"
    for title, path in plotted.items():
        data = base64.b64encode(path.read_bytes()).decode()
        body += f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
    if left_out:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in left_out)
        body += f"<p>What the scores leave out:</p><ul>{lines}</ul>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Report</title><style>{STYLE}</style>'
        f"<h1>Report</h1>{body}</html>\n"
    )


def _write_csv(all_results: Sequence[Result], path: Path) -> None:
    """One score per line, with its confidence interval and the published number."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header = ("model", "benchmark", "metric", "value", "low", "high", "count", "published", "incomplete")
        writer.writerow([*header, *BASELINES, "left_out", "with_trained_on"])
        for result in all_results:
            known = published.scores_of(result.model)
            for metric, s in result.scores.items():
                names = (escape.cell(name) for name in (result.model, result.benchmark, metric))
                row = [*names, s["value"], s["low"], s["high"], s["count"]]
                blind = [result.blind.get(baseline, {}).get(metric, "") for baseline in BASELINES]
                trained_on = [result.left_out, result.with_trained_on.get(metric, "")]
                writer.writerow([*row, known.get(metric, ""), int(result.incomplete), *blind, *trained_on])
