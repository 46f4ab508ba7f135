"""The report as one HTML file, which loads nothing: tables, curves, examples with their images."""

import functools
import html
import importlib.resources
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from naturel_jax.evaluators.examples import SHOWN, Example
from naturel_jax.report import tables
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.plots import Plot
from naturel_jax.report.tables import Cell, Cited
from tfds_naturel.common import escape, pages

_TEMPLATE = importlib.resources.files("naturel_jax.report") / "report.html"
_MOST_CHARACTERS = 300  # of a caption


def fill(
    report: Report,
    shown: Sequence[str],
    folded: Sequence[str],
    legend: Sequence[str],
    further: Sequence[Section],
) -> str:
    """The page. ``shown``, ``folded``: the tables in HTML, and those that open on a click; ``further``: curves, and
    what ``overview`` makes."""
    made, *others = report.made or [Section("")]
    parts = [
        _section(made) if made.rows else "",
        *shown,
        *(f"<p>{escape.html(line)}</p>" for line in legend),
        *map(_section, report.sections),
        *map(_section, further),
        f"<details><summary>Each benchmark with all baselines</summary>{''.join(folded)}</details>" if folded else "",
        _examples(report.examples),
        _list("What the scores leave out", report.left_out),
        *map(_section, report.trained_on),
        *map(_section, others),
    ]
    return pages.fill(_TEMPLATE, title=escape.html(report.title), body="\n".join(filter(None, parts)))


def _section(section: Section) -> str:
    body, plot = "", _figure(section.plot) if section.plot else ""
    if section.rows:
        cell = functools.partial(_cell, heat=section.heat)
        names = (re.sub("([_/])", r"\1<wbr>", escape.html(str(line[0]))) for line in section.rows)
        rows = "".join(
            f'<tr><th scope="row">{name}</th>{"".join(map(cell, others))}</tr>'
            for name, (_, *others) in zip(names, section.rows, strict=True)
        )
        head = "".join(f'<th scope="col">{escape.html(cell)}</th>' if cell else "<td></td>" for cell in section.head)
        kind = "wide text" if section.words else "wide"
        body = (
            f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape.html(section.title)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody class=measured>{rows}</tbody></table></div>"
        )
    body = f"<div class=beside>{body}{plot}</div>" if plot else body
    text = "".join(f"<p>{escape.html(line)}</p>" for line in section.text)
    body = f"<h2>{escape.html(section.title)}</h2>{body}{text}"
    return body + f'<pre class="wide" tabindex="0">{html.escape(section.command)}</pre>' * bool(section.command)


def _cell(cell: str | Cell | Cited | None, *, heat: bool) -> str:
    if isinstance(cell, tuple):
        return f"<td>{''.join(_sourced(*part) for part in cell)}</td>"
    return f"<td>{escape.html(cell)}</td>" if isinstance(cell, str) else tables.html_cell(cell, heat=heat)


def _sourced(text: str, source: str) -> str:
    """The address is written out: a report links nothing."""
    address = f"<small>{escape.html(source.removeprefix('https://'))}</small>" if source else ""
    return f"<div>{escape.html(text)}{address}</div>"


def _figure(plot: Plot) -> str:
    svg = plot.svg.replace("<svg ", f'<svg aria-label="{escape.html(plot.text)}" ', 1)
    return f"<figure>{svg}</figure>"


def _list(title: str, lines: Sequence[str]) -> str:
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape.html(line)}</li>' for line in lines)}</ul>" if lines else ""


# ---- Examples --------------------------------------------------------------------------------------------------------


def pick(of_models: Mapping[str, Sequence[Example]]) -> list[tuple[str, Example]]:
    """At most ``SHOWN`` examples, half of them right: of the models in turns, each item once on either side."""
    found: list[tuple[str, Example]] = []
    for right in (True, False):
        items: set[tuple[str, str]] = set()
        sides: dict[str, Iterator[Example]] = {}
        for n, (model, examples) in enumerate(of_models.items()):
            side = [example for example in examples if example.right == right]
            start = 2 * n % max(1, len(side))  # so that models show items of different benchmarks
            sides[model] = iter((*side[start:], *side[:start]))
        for model in itertools.chain.from_iterable(itertools.repeat(list(sides), SHOWN)):
            example = next((one for one in sides[model] if (one.benchmark, one.id) not in items), None)
            if example is not None and len(items) < SHOWN // 2:
                items.add((example.benchmark, example.id))
                found.append((model, example))
    return found


def _examples(of_models: Mapping[str, Sequence[Example]]) -> str:
    """The section on examples; empty without models, one sentence without examples."""
    if not of_models:
        return ""
    title, picked = "<h2>Examples</h2>", pick(of_models)
    if not picked:
        return f"{title}<p>No items are kept with these results; evaluate again to see some of them.</p>"
    right = sum(example.right for _, example in picked)
    text = (
        f"{right} items that a model gets right and {len(picked) - right} that one gets wrong, with the cosine of each "
        "caption to each image. True and false are those of the first image. Which items are here depends on their ids "
        "only; naturel-compare shows all of a benchmark."
    )
    return f"{title}<p>{text}</p><ul class=cards>{''.join(_card(*each) for each in picked)}</ul>"


def _card(model: str, example: Example) -> str:
    which = f"item {example.id} of {example.benchmark}"
    images = "".join(
        f'<img loading="lazy" alt="{escape.html(f"Image {n} of {which}")}" src="{html.escape(address)}">'
        for n, address in enumerate(example.images, 1)
    )
    verdict = '<b class="right">✓ right</b>' if example.right else '<b class="wrong">✗ wrong</b>'
    captions, columns = "", len(example.captions)
    for n, caption in enumerate(example.captions):
        cosines = ", ".join(f"{cosine:.3f}" for cosine in example.cosines[n::columns])
        truth = ("true" if n < example.true_captions else "false") if example.true_captions else ""
        short = caption if len(caption) <= _MOST_CHARACTERS else f"{caption[:_MOST_CHARACTERS]}…"
        captions += f"<li>{escape.html(short)} <small>{' '.join(filter(None, (truth, cosines)))}</small></li>"
    source = escape.html(f"{model}, {example.benchmark}, {example.id}")
    return f"<li><div class=frames>{images}</div><p>{verdict} <small>{source}</small></p><ul>{captions}</ul></li>"
