"""The poster's two tables and one for each further benchmark, in Markdown, LaTeX and HTML; all scores in CSV."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from naturel_jax.benchmarks.benchmark import headlines
from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from tfds_naturel.common import escape

MISSING = "–"  # noqa: RUF001 (an en dash: not measured)
INCOMPLETE = "†"  # after a score over fewer or more items than were published, or with images that could not be read

MEASURED, PUBLISHED, BLIND, CHANCE = "measured", "published", "blind", "chance"  # kinds of rows, in this order
MISTAKE = "mistake"  # a kind of row that only ``mistakes.py`` writes


@dataclasses.dataclass(frozen=True)
class Cell:
    """A score in [0, 1]; its 95% confidence interval and its number of items, if they are known.

    ``best``: the highest of its column among the models, or one that cannot be told apart from it. ``with_trained_on``:
    the score over all items, if those that the model was trained on are left out. ``link``: where a page shows the
    items.
    """

    value: float
    interval: tuple[float, float] | None = None
    count: int | None = None
    incomplete: bool = False
    best: bool = False
    with_trained_on: float | None = None
    link: str = ""

    @property
    def text(self) -> str:
        """The score as the poster prints it, two decimals."""
        return f"{self.value:.2f}{INCOMPLETE * self.incomplete}"

    @property
    def margin(self) -> float | None:
        """Half the width of the interval."""
        return self.interval and (self.interval[1] - self.interval[0]) / 2


Cited = tuple[tuple[str, str], ...]  # a cell of texts, each with the address of its source, or ""


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """A model, a published one, a blind baseline or chance; ``cells``: metric -> cell."""

    name: str
    kind: str
    cells: Mapping[str, Cell]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its heading, the heading it shares with its neighbours (or ''), and the metric that fills it."""

    heading: str
    group: str
    metric: str


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """A caption and the columns after the model's name."""

    caption: str
    columns: tuple[Column, ...]

    def body(self, rows: Sequence[ModelRow]) -> list[tuple[ModelRow, list[Cell | None]]]:
        """The rows of the table with their cells; rows without any score are shown for models only."""
        metrics = [column.metric for column in self.columns]
        shown = (row for row in rows if row.kind == MEASURED or not row.cells.keys().isdisjoint(metrics))
        return [(row, [row.cells.get(metric) for metric in metrics]) for row in shown]


# NatuRel's scores that no text can win, which come before the poster's two. Their benchmarks have tables of their own.
_BEYOND_TEXT = (
    Column("Contrast: Choice", "NatuRel", "naturel_contrast/complex_choice"),
    Column("Contrast: Group", "NatuRel", "naturel_contrast/complex_group"),
    Column("Bindings: Group", "NatuRel", "naturel_bindings/group"),
    Column("Positions: Group", "NatuRel", "naturel_positions/group"),
)

TABLE_1 = ScoreTable(
    "Table 1: Results of various models on various benchmarks",
    (
        Column("VG-Relations", "", "vg_relation/macro"),
        *_BEYOND_TEXT,
        Column("Simple", "NatuRel", "naturel/simple"),
        Column("Complex", "NatuRel", "naturel/complex"),
        Column("All", "Winoground (text)", "winoground/text"),
        Column("Object", "Winoground (text)", "winoground/text/Object"),
    ),
)

_CHANGED = {"obj": "Object", "att": "Attribute", "rel": "Relation"}  # suffix of a SugarCrepe subset -> what it changes

TABLE_2 = ScoreTable(
    "Table 2: Results on SugarCrepe",
    tuple(
        Column(_CHANGED[subset.split("_")[1]], subset.split("_")[0].upper(), f"sugarcrepe/{subset}")
        for subset in SUBSETS
    ),
)

TABLES = (TABLE_1, TABLE_2)

HELD_OUT = ScoreTable(
    "NatuRel's held-out compositions: triplets that no training image shows",
    tuple(Column(kind.capitalize(), "", f"naturel_unseen/{kind}") for kind in ("simple", "complex")),
)


def tables_of(metrics: Iterable[str]) -> list[ScoreTable]:
    """The tables and columns for ``metrics``: the poster's two, then one for each further benchmark."""
    benchmarks: dict[str, list[str]] = {}  # name -> its metrics, in order
    measured = dict.fromkeys(metrics)
    for metric in measured:
        benchmarks.setdefault(metric.split("/")[0], []).append(metric)
    complete = (column for table in TABLES for column in table.columns if column not in _BEYOND_TEXT)
    shown = {column.metric.split("/")[0] for column in complete}
    own = {"naturel_unseen": HELD_OUT}
    further = [own.get(name) or _further(name, names) for name, names in benchmarks.items() if name not in shown]
    columns = {table: tuple(c for c in table.columns if c.metric in measured) for table in (*TABLES, *further)}
    return [dataclasses.replace(table, columns=kept) for table, kept in columns.items() if kept]


def _further(benchmark: str, metrics: list[str]) -> ScoreTable:
    columns = tuple(Column(metric.removeprefix(f"{benchmark}/"), "", metric) for metric in headlines(metrics))
    return ScoreTable(f"Further benchmarks: {benchmark}", columns)


def _groups(table: ScoreTable) -> list[tuple[str, int]]:
    """(group, number of columns) for each run of adjacent columns that share a group."""
    runs = itertools.groupby(column.group for column in table.columns)
    return [(group, len(list(members))) for group, members in runs]


def markdown(table: ScoreTable, rows: Sequence[ModelRow]) -> str:
    """The table in Markdown, its columns aligned for a terminal. Groups are prepended to their headings, since Markdown
    has only one header row."""
    lines = [["Model", *(f"{column.group} {column.heading}".strip() for column in table.columns)]]
    for row, cells in table.body(rows):
        name = escape.markdown(row.name)
        lines.append([name if row.kind == MEASURED else f"*{name}*", *map(markdown_cell, cells)])
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    rule = [":" + "-" * max(first - 1, 3), *("-" * max(width - 1, 3) + ":" for width in others)]
    text = [
        "| " + " | ".join([line[0].ljust(first), *(text.rjust(w) for text, w in zip(line[1:], others, strict=True))])
        for line in [lines[0], rule, *lines[1:]]
    ]
    return f"**{table.caption}**\n\n" + "".join(f"{line} |\n" for line in text)


def markdown_cell(cell: Cell | None) -> str:
    """A score with half the width of its interval, in bold if it is among the best."""
    if cell is None:
        return MISSING
    text = f"**{cell.text}**" if cell.best else cell.text
    return text if cell.margin is None else f"{text} ±{cell.margin:.2f}"


def latex(table: ScoreTable, rows: Sequence[ModelRow]) -> str:
    """The table as a LaTeX ``table`` with booktabs rules, scaled down to the width of the text if it is wider. It needs
    ``\\usepackage{booktabs,graphicx}``."""
    groups, rules, first = [""], "", 2
    for name, size in _groups(table):
        groups.append(rf"\multicolumn{{{size}}}{{c}}{{{escape.latex(name)}}}")
        rules += rf"\cmidrule(lr){{{first}-{first + size - 1}}}" * bool(name)
        first += size
    lines = [" & ".join(groups) + r" \\", rules] if rules else []
    lines.append(latex_line(["Model", *(column.heading for column in table.columns)]))
    for kind, group in itertools.groupby(table.body(rows), key=lambda line: line[0].kind):
        lines.append(r"\midrule")
        for row, cells in group:
            name = escape.latex(row.name)
            name = name if kind == MEASURED else rf"\textit{{{name}}}"
            lines.append(" & ".join([name, *map(latex_cell, cells)]) + r" \\")
    return latex_table(table.caption, len(table.columns), lines)


def latex_table(caption: str, columns: int, lines: Sequence[str]) -> str:
    """A LaTeX ``table`` of a column of names and ``columns`` of numbers."""
    caption = re.sub(r"^Table \d+: ", "", caption)  # LaTeX numbers its tables itself
    body = "\n".join(lines)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape.latex(caption)}}}\n\\smallskip\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{l{'r' * columns}}}\n\\toprule\n{body}\n"
        "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    )


def latex_line(cells: Sequence[str | Cell | Cited | None]) -> str:
    """A line of a LaTeX table: text, which is escaped, and scores."""
    return " & ".join(latex_cell(c) if isinstance(c, Cell | None) else escape.latex(str(c)) for c in cells) + r" \\"


def latex_cell(cell: Cell | None) -> str:
    """A score with half the width of its interval, in bold if it is among the best."""
    if cell is None:
        return "--"
    text = f"{cell.value:.2f}" + r"\dag{}" * cell.incomplete
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text if cell.margin is None else rf"{text} {{\scriptsize \textpm{{}}{cell.margin:.2f}}}"


def html(table: ScoreTable, rows: Sequence[ModelRow]) -> str:
    """The table as an HTML ``table``, in a box that scrolls sideways in narrow windows."""
    grouped = any(column.group for column in table.columns)
    model = f'<th scope="col"{" rowspan=2" * grouped}>Model</th>'
    groups = "".join(
        f'<th scope="colgroup" colspan="{size}">{escape.html(name)}</th>' if name else f'<td colspan="{size}"></td>'
        for name, size in _groups(table)
    )
    headings = "".join(f'<th scope="col">{escape.html(column.heading)}</th>' for column in table.columns)
    head = f"<tr>{model}{groups}</tr><tr>{headings}</tr>" if grouped else f"<tr>{model}{headings}</tr>"
    body = ""
    for kind, group in itertools.groupby(table.body(rows), key=lambda line: line[0].kind):
        lines = (
            f'<tr><th scope="row">{escape.html(row.name)}</th>{"".join(map(html_cell, cells))}</tr>'
            for row, cells in group
        )
        body += f'<tbody class="{kind}">{"".join(lines)}</tbody>'
    caption = escape.html(table.caption)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{caption}">'
        f"<table><caption><span>{caption}</span></caption><thead>{head}</thead>{body}</table></div>"
    )


def html_cell(cell: Cell | None, *, heat: bool = False) -> str:
    """A score above its interval, in bold if it is among the best. ``heat``: in blue above one half, in orange below,
    the stronger the farther from it."""
    if cell is None:
        return f"<td>{MISSING}</td>"
    text = f"<strong>{cell.text}</strong>" if cell.best else cell.text
    text = f'<a href="{escape.html(cell.link)}">{text}</a>' if cell.link else text
    interval = "<small>{:.2f}&ndash;{:.2f}</small>".format(*cell.interval) if cell.interval else ""
    side = "high" if cell.value >= 0.5 else "low"
    style = f' class="{side}" style="--heat:{abs(cell.value - 0.5) * 2:.0%}"' * heat
    return f"<td{style}>{text}{interval}</td>"


def to_csv(rows: Sequence[ModelRow]) -> str:
    """One score per line, with its confidence interval and number of items where they are known."""
    head = ("model", "benchmark", "metric", "value", "low", "high", "count", "incomplete", "kind", "with_trained_on")
    lines = []
    for row in rows:
        for metric, cell in row.cells.items():
            known = (cell.value, *(cell.interval or (None, None)), cell.count, int(cell.incomplete), row.kind)
            lines.append((row.name, metric.split("/")[0], metric, *known, cell.with_trained_on))
    return escape.table(head, lines)
