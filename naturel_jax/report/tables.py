"""The poster's two tables, and one for each further benchmark, in Markdown, LaTeX and HTML, from rows of {model name:
{metric name: value}}.
"""

import dataclasses
import html as html_escape
import re
from collections.abc import Callable, Mapping

from naturel_jax.benchmarks.benchmark import is_headline
from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from tfds_naturel import escape

MISSING = "–"  # noqa: RUF001 (an en dash: not measured)
INCOMPLETE = "*"  # after a score over fewer items than were published

Rows = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its heading, the heading it shares with its neighbours (or ''), and the metric that fills it."""

    heading: str
    group: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A caption and the columns after the model's name."""

    caption: str
    columns: tuple[Column, ...]


TABLE_1 = Table(
    "Table 1: Results of various models on various benchmarks",
    (
        Column("VG-Relations", "", "vg_relation/macro"),
        Column("Simple", "NatuRel", "naturel/simple"),
        Column("Complex", "NatuRel", "naturel/complex"),
        Column("All", "Winoground (text)", "winoground/text"),
        Column("Object", "Winoground (text)", "winoground/text/Object"),
    ),
)

_CHANGED = {"obj": "Object", "att": "Attribute", "rel": "Relation"}  # what a subset of SugarCrepe changes

TABLE_2 = Table(
    "Table 2: Results on SugarCrepe",
    tuple(
        Column(_CHANGED[subset.split("_")[1]], subset.split("_")[0].upper(), f"sugarcrepe/{subset}")
        for subset in SUBSETS
    ),
)

TABLES = (TABLE_1, TABLE_2)

HELD_OUT = Table(
    "NatuRel's held-out compositions: triplets that no training image shows",
    tuple(Column(kind.capitalize(), "", f"naturel_unseen/{kind}") for kind in ("simple", "complex")),
)


def tables_of(rows: Rows) -> list[Table]:
    """The tables for ``rows``: the poster's two, then one for each further benchmark that has a score."""
    benchmarks: dict[str, dict[str, None]] = {}  # name -> its metrics, in order
    for scores in rows.values():
        for metric in scores:
            benchmarks.setdefault(metric.split("/")[0], {})[metric] = None
    shown = {column.metric.split("/")[0] for table in TABLES for column in table.columns}
    own = {"naturel_unseen": HELD_OUT}
    further = {name: own.get(name) or _further(name, list(metrics)) for name, metrics in benchmarks.items()}
    return [*TABLES, *(table for name, table in further.items() if name not in shown)]


def _further(benchmark: str, metrics: list[str]) -> Table:
    """The benchmark's headline metrics; if it has none, those with the shortest names (``zeroshot/birds/top1``)."""
    shortest = min(metric.count("/") for metric in metrics)
    headline = [m for m in metrics if is_headline(m)] or [m for m in metrics if m.count("/") == shortest]
    columns = tuple(Column(metric.removeprefix(f"{benchmark}/"), "", metric) for metric in headline)
    return Table(f"Further benchmarks: {benchmark}", columns)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What fills a table: measured values, published ones of the same models, and which (model, metric) are
    incomplete.
    """

    measured: Rows
    published: Rows = dataclasses.field(default_factory=dict)
    incomplete: frozenset[tuple[str, str]] = frozenset()
    blind: Rows = dataclasses.field(default_factory=dict)

    def cell(self, model: str, metric: str) -> str:
        """A fraction as the poster prints it, two decimals; then, if published, ``(published, difference)``."""
        value, known = self.measured[model].get(metric), self.published.get(model, {}).get(metric)
        text = MISSING if value is None else f"{value:.2f}{INCOMPLETE * ((model, metric) in self.incomplete)}"
        if known is None:
            return text
        difference = "" if value is None else f", {round(value - known, 2) + 0.0:+.2f}"  # + 0.0: no "-0.00"
        return f"{text} ({known:.2f}{difference})"

    def body(self, table: Table, literal: Callable[[str], str], italic: str) -> list[list[str]]:
        """One row of cells per model, then one per blind baseline of the table, its name set in ``italic`` (a
        format string), and names escaped by ``literal``.
        """
        metrics = [column.metric for column in table.columns]
        rows = [[literal(model), *(self.cell(model, metric) for metric in metrics)] for model in self.measured]
        for name, values in self.blind.items():
            if any(metric in values for metric in metrics):
                cells = (MISSING if metric not in values else f"{values[metric]:.2f}" for metric in metrics)
                rows.append([italic.format(literal(name)), *cells])
        return rows


def markdown(table: Table, rows: Rows) -> str:
    """The table in Markdown, measured values only."""
    return markdown_scores(table, Scores(rows))


def markdown_scores(table: Table, scores: Scores) -> str:
    """The table in Markdown. Groups are prepended to their headings, since Markdown has only one header row."""
    header = ["Model", *(f"{column.group} {column.heading}".strip() for column in table.columns)]
    lines = [
        header,
        [":---", *["---:"] * len(table.columns)],
        *scores.body(table, escape.markdown, "*{}*"),
    ]
    return f"**{table.caption}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _groups(table: Table) -> list[tuple[str, int]]:
    """(group, number of columns) for each run of adjacent columns that share a group."""
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def latex_scores(table: Table, scores: Scores) -> str:
    """The table as a LaTeX ``table`` with booktabs rules; it needs ``\\usepackage{booktabs}``."""
    groups = " & ".join(
        ["", *(rf"\multicolumn{{{size}}}{{c}}{{{escape.latex(name)}}}" for name, size in _groups(table))]
    )
    header = " & ".join(["Model", *(escape.latex(column.heading) for column in table.columns)])
    caption = re.sub(r"^Table \d+: ", "", table.caption)  # LaTeX numbers its tables itself
    body = [" & ".join(row) + r" \\" for row in scores.body(table, escape.latex, r"\textit{{{}}}")]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape.latex(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            rf"{groups} \\",
            rf"{header} \\",
            r"\midrule",
            *(row.replace(MISSING, "--") for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def html_scores(table: Table, scores: Scores) -> str:
    """The table as an HTML ``table``."""

    def row(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    groups = "".join(f'<th colspan="{size}">{html_escape.escape(name)}</th>' for name, size in _groups(table))
    header = row("th", ["Model", *(html_escape.escape(column.heading) for column in table.columns)])
    body = "".join(row("td", cells) for cells in scores.body(table, html_escape.escape, "<i>{}</i>"))
    caption = html_escape.escape(table.caption)
    head = f"<thead><tr><th></th>{groups}</tr>{header}</thead>"
    return f"<table><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>"
