"""Which benchmark images models may have been trained on: what the collections say, and what was found."""

from collections.abc import Sequence
from typing import NamedTuple

from naturel_jax.benchmarks.benchmark import Origin
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.evaluators.results import LeftOut, Result
from tfds_naturel.common import escape

TITLE = "Images that may have been trained on"
NOTE = (
    "Where the published images of each benchmark come from, which other data may hold them, and how many items were "
    "found among the training images of each model. Models that are neither runs of naturel_jax nor exports of one "
    "have no record of these."
)
HEADINGS = ("Benchmark", "Images", "Also in training data from", "Found")
UNKNOWN = "not stated"


class Line(NamedTuple):
    """A row of the table; ``found``: one text for each model. ``clear``: all images that the models were trained on
    were compared, and none was found; such lines are one sentence instead."""

    benchmark: str
    origins: tuple[Origin, ...]
    found: tuple[str, ...]
    clear: bool = False

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """The texts of each of the four columns: (text, address of its source or "")."""
        images = [(origin.images, origin.source) for origin in self.origins] or [(UNKNOWN, "")]
        overlaps = [
            (f"{overlap.training}: {overlap.known}", overlap.source)
            for overlap in dict.fromkeys(overlap for origin in self.origins for overlap in origin.overlaps)
        ]
        return [[(self.benchmark, "")], images, overlaps, [(text, "") for text in self.found]]


def lines(results: Sequence[Result | LeftOut]) -> list[Line]:
    """A line for each benchmark; without origins if it is the user's, or its package is not installed."""
    found: dict[str, list[Result | LeftOut]] = {}
    for result in results:
        found.setdefault(result.benchmark, []).append(result)
    made = []
    for name, of_benchmark in found.items():
        origins = BENCHMARKS[name].SOURCE.origins if name in BENCHMARKS else ()
        compared = all(one.found and one.found["read"] == one.found["images"] for one in of_benchmark)
        clear = compared and not any(one.left_out for one in of_benchmark)
        made.append(Line(name, origins, tuple(f"{one.model}: {_found(one)}" for one in of_benchmark), clear))
    return made


def _texts(lines: Sequence[Line]) -> list[str]:
    """The sentences above the table, which has the lines that are not clear."""
    clear = [line.benchmark for line in lines if line.clear]
    sentence = f"No image of {', '.join(clear)} was found among those that the models were trained on; all were read."
    return [sentence] * bool(clear) + [NOTE] * (len(clear) < len(lines))


def _found(result: Result | LeftOut) -> str:
    if not result.found:
        return "no record" if result.found is not None else "of an earlier version; evaluate again"
    number = result.items + result.left_out
    ways = ", ".join(f"{result.found[way]:,} by {way}" for way in ("name", "bytes", "look"))
    read = f"{result.found['read']:,} of {result.found['images']:,} training images read"
    return f"{result.left_out:,} of {number:,} items ({ways}; {read})"


def markdown(lines: Sequence[Line]) -> list[str]:
    """The section in Markdown; none without lines."""
    if not lines:
        return []

    def part(text: str, source: str) -> str:
        return f"{escape.markdown(text)} ([source]({source}))" if source else escape.markdown(text)

    rows = ["| " + " | ".join(HEADINGS) + " |", "| :--- " * len(HEADINGS) + "|"]
    shown = [line for line in lines if not line.clear]
    for line in shown:
        rows.append("| " + " | ".join("; ".join(part(*each) for each in cell) for cell in line.cells) + " |")
    return ["\n\n".join([f"## {TITLE}", *map(escape.markdown, _texts(lines)), *(["\n".join(rows)] if shown else [])])]


def html(lines: Sequence[Line]) -> list[str]:
    """The section in HTML; sources are written out, since a report loads and links nothing."""
    if not lines:
        return []

    def part(text: str, source: str) -> str:
        address = f"<small>{escape.html(source.removeprefix('https://'))}</small>" if source else ""
        return f"<div>{escape.html(text)}{address}</div>"

    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    body = ""
    shown = [line for line in lines if not line.clear]
    for line in shown:
        first, *others = ("".join(part(*each) for each in cell) for cell in line.cells)
        body += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
    table = f'<table><thead><tr>{head}</tr></thead><tbody class="measured">{body}</tbody></table>'
    box = f'<div class="wide text" role="region" tabindex="0" aria-label="{TITLE}">{table}</div>'
    texts = "".join(f"<p>{escape.html(text)}</p>" for text in _texts(lines))
    return [f"<h2>{TITLE}</h2>{texts}{box if shown else ''}"]
