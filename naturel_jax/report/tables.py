"""The poster's two tables, in Markdown, LaTeX and HTML, from rows of {model name: {metric name: value}}."""

import dataclasses
import html as html_escape
from collections.abc import Callable, Mapping

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

TABLE_2 = Table(
    "Table 2: Results on SugarCrepe",
    tuple(
        Column(heading, group.upper(), f"sugarcrepe/{group}_{heading[:3].lower()}")
        for group, headings in {
            "replace": ("Object", "Attribute", "Relation"),
            "swap": ("Object", "Attribute"),
            "add": ("Object", "Attribute"),
        }.items()
        for heading in headings
    ),
)

TABLES = (TABLE_1, TABLE_2)

HELD_OUT = Table(
    "NatuRel's held-out compositions: triplets that no training picture shows",
    tuple(Column(kind.capitalize(), "", f"naturel_unseen/{kind}") for kind in ("simple", "complex")),
)


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

    def body(self, table: Table, escape: Callable[[str], str], italic: str) -> list[list[str]]:
        """One row of cells per model, then one per blind baseline of the table, its name set in ``italic`` (a
        format).
        """
        metrics = [column.metric for column in table.columns]
        rows = [[escape(model), *(self.cell(model, metric) for metric in metrics)] for model in self.measured]
        for name, values in self.blind.items():
            if any(metric in values for metric in metrics):
                cells = (MISSING if metric not in values else f"{values[metric]:.2f}" for metric in metrics)
                rows.append([italic.format(escape(name)), *cells])
        return rows


def markdown(table: Table, rows: Rows) -> str:
    """The table in Markdown, measured values only."""
    return markdown_scores(table, Scores(rows))


def markdown_scores(table: Table, scores: Scores) -> str:
    """The table in Markdown. Groups are put before their headings, as Markdown has one header row."""
    header = ["Model", *(f"{column.group} {column.heading}".strip() for column in table.columns)]
    lines = [
        header,
        [":---", *["---:"] * len(table.columns)],
        *scores.body(table, lambda name: name.replace("|", "\\|"), "*{}*"),
    ]
    return f"**{table.caption}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _groups(table: Table) -> list[tuple[str, int]]:
    """(group, number of columns) of neighbours that share one."""
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _latex_escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex_scores(table: Table, scores: Scores) -> str:
    """The table as a LaTeX ``table`` with booktabs rules; it needs ``\\usepackage{booktabs}``."""
    groups = " & ".join(
        ["", *(rf"\multicolumn{{{size}}}{{c}}{{{_latex_escape(name)}}}" for name, size in _groups(table))]
    )
    header = " & ".join(["Model", *(_latex_escape(column.heading) for column in table.columns)])
    body = [" & ".join(row) + r" \\" for row in scores.body(table, _latex_escape, r"\textit{{{}}}")]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex_escape(table.caption.partition(': ')[2])}}}",
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
