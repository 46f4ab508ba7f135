"""The poster's two tables from rows of {model name: {metric name: value}}."""

import dataclasses
from collections.abc import Mapping

MISSING = "–"  # noqa: RUF001 (an en dash: not measured)

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


def cell(value: float | None) -> str:
    """A fraction as the poster prints it: two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def markdown(table: Table, rows: Rows) -> str:
    """The table in Markdown. Groups are put before their headings, as Markdown has one header row."""
    header = ["Model", *(f"{c.group} {c.heading}".strip() for c in table.columns)]
    lines = [header, [":---", *["---:"] * len(table.columns)]]
    for model, metrics in rows.items():
        lines.append([model.replace("|", "\\|"), *(cell(metrics.get(c.metric)) for c in table.columns)])
    return f"**{table.caption}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
