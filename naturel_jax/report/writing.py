"""Writes a report: ``report.md``, ``report.tex``, ``report.html``, ``scores.csv`` and plots."""

import re
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from naturel_jax import storage
from naturel_jax.report import files, overview, page, plots, tables, text_alone
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, PUBLISHED, Cell, Cited
from tfds_naturel.common import escape


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


def _legend(report: Report, interval: str, plain: Callable[[str], str]) -> list[str]:
    """Explanations of ``interval``, of the number of seeds and of those marks that occur in the tables; ``plain``
    escapes names."""
    cells = [cell for row in report.rows for cell in row.cells.values()]
    several = any(number > 1 for number in report.seeds.values())
    by = "seeds and images" if several else "a bootstrap over images"
    kinds = {row.kind for row in report.rows}
    on = "on the items that all models have"
    bold = f"Bold: the best score of a column, {on}, and those that {by} (95%) cannot tell from it."
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
