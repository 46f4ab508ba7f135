"""Compares scores of published checkpoints with their known ones, and names likely causes where they differ."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.evaluators import results
from naturel_jax.evaluators.results import Result
from naturel_jax.report import published
from naturel_jax.report.published import Checkpoint
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import read_tsv

TOLERANCE = 0.005  # one grey level between image decoders can move a score this far; known scores are rounded less

AS_KNOWN, IN_INTERVAL, OFF, OTHER, MISSING = "as known", "within the interval", "off", "other items", "not measured"
OFF_OR_OTHER = "off or other items"  # the items were only counted, so it may be these that differ
_HEAD = ("score", "known", "measured", "95% interval", "items that differ", "")


@dataclasses.dataclass(frozen=True)
class Compared:
    """A known score beside the measured one. ``score``: value, low, high and count of ``results.Result``; empty where
    the metric was not measured. ``why``: an explanation of ``verdict``, or empty."""

    metric: str
    known: float
    score: Mapping[str, float]
    verdict: str
    why: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of its row in a table under ``_HEAD``."""
        verdict = f"{self.verdict}: {escape.markdown(self.why)}" if self.why else self.verdict
        measured = interval = differ = ""
        if self.score:
            value, low, high, count = (self.score[name] for name in ("value", "low", "high", "count"))
            measured, interval = f"{value:.4f}", f"{low:.4f} to {high:.4f}"
            differ = f"{abs(value - self.known) * count:.0f} of {count:,.0f}"
        return (self.metric, f"{self.known:.4f}", measured, interval, differ, verdict)


def compare(out: Path, model: str, checkpoint: Checkpoint, measured: Mapping[str, Result]) -> Iterator[Compared]:
    """One ``Compared`` for each known score of a checkpoint, whose row in ``out`` is ``model``. ``measured``: benchmark
    -> its result."""
    differs: dict[str, str] = {}  # benchmark -> how its items differ from those of the known scores; empty: they do not
    for metric, value in checkpoint.scores.items():
        benchmark = metric.split("/")[0]
        result = measured.get(benchmark)
        if result is None or metric not in result.scores:
            yield Compared(metric, value, {}, MISSING, "no result" if result is None else "its items are not there")
            continue
        if benchmark not in differs:
            differs[benchmark] = _difference(out, model, checkpoint, result)
        score = result.scores[metric]
        verdict, counted = OTHER if differs[benchmark] else verdict_on(value, score), ""
        if not checkpoint.items[benchmark].digest:
            verdict = OFF_OR_OTHER if verdict == OFF else verdict
            counted = "its items were only counted: no digest is known"
        yield Compared(metric, value, score, verdict, differs[benchmark] or counted)


def verdict_on(known: float, score: Mapping[str, float]) -> str:
    """The verdict on a score over the known items."""
    if abs(score["value"] - known) <= TOLERANCE:
        return AS_KNOWN
    return IN_INTERVAL if score["low"] <= known <= score["high"] else OFF


def _difference(out: Path, model: str, checkpoint: Checkpoint, result: Result) -> str:
    """How the items of ``result`` differ from those of the known scores; empty if they do not."""
    expected = checkpoint.items[result.benchmark]
    if result.items != expected.number:
        return f"{result.items:,} of {expected.number:,}"
    if result.problems:
        return result.problems[0]
    rows = results.load_items(out, model, result.benchmark, without=("boxes", "cosines"))
    return "" if published.matches(expected, rows) else "their captions differ"


# ---- Causes ----------------------------------------------------------------------------------------------------------


def causes(family: str, benchmarks: set[str]) -> list[dict[str, str]]:
    """The likely causes of deviating scores of a model of ``family`` on ``benchmarks``: the rows of ``causes.tsv`` that
    concern these (no benchmarks: all); ``mistakes`` are their names in ``naturel-evaluate --mistakes``."""
    rows = (row for row in read_tsv(Path(__file__).with_name("causes.tsv")) if family in row["families"].split())
    return [row for row in rows if not row["benchmarks"] or benchmarks & set(row["benchmarks"].split())]


def conventions(source: str) -> tuple[str, str]:
    """(family of a checkpoint, how its texts and images were processed). Raises what ``weights.find`` raises."""
    from naturel_jax import weights  # imports JAX, which is slow
    from naturel_jax.models.families import family_of

    found = weights.find(source)
    config, processor = found.config, found.processor
    plain, upper, comma = processor.tokenize(["a cat on a box", "a Cat on a Box", "a cat, on a box"])
    case = "lower case" if (plain == upper).all() else "case kept"
    case += ", no punctuation" if (plain == comma).all() else ", punctuation kept"
    image = f"resize {processor.resize} {processor.interpolation} {processor.size}, centre {processor.centre}"
    text = f"padded to {len(plain)} of {config.text.context}, {case}"
    activation = config.image.transformer.activation, config.text.transformer.activation
    return family_of(config).name, f"activation {'/'.join(dict.fromkeys(activation))}; {text}; {image}"


# ---- Text ------------------------------------------------------------------------------------------------------------


def table(lines: Sequence[Compared], firsts: Sequence[str] = ()) -> str:
    """The lines in Markdown; ``firsts``: a cell before each, a column ``checkpoint``."""
    rows = [_HEAD, ["---"] * len(_HEAD), *(line.cells for line in lines)]
    if firsts:
        rows = [(first, *row) for first, row in zip(("checkpoint", "---", *firsts), rows, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def off(lines: Sequence[Compared]) -> list[str]:
    """The benchmarks with a score that is off, or may be."""
    return sorted({line.metric.split("/")[0] for line in lines if line.verdict in (OFF, OFF_OR_OTHER)})


def explained(model: str, source: str, bad: Sequence[str], files: str, out: str) -> str:
    """Text on how the checkpoint at ``source`` was read, the likely causes of scores that are off on the benchmarks
    ``bad``, and the command that makes these mistakes on purpose. ``files``, ``out``: its folders."""
    try:
        family, used = conventions(source)
    except (UserError, OSError) as error:
        return f"{source} cannot be read now: {error}"
    found = causes(family, set(bad))
    mistakes = [name for cause in found for name in cause["mistakes"].split()]
    words = ("python", "-m", "naturel_jax.evaluate", "--models", f"{model}={source}", "--benchmarks", *bad)
    command = shlex.join([*words, "--benchmarks_dir", files, "--out", out, "--mistakes", *mistakes])
    lines = [f"{source} was read as {family}: {used}. Likely causes:\n"]
    lines += [f"- {cause['name']}: {cause['text']}" for cause in found]
    lines.append(
        "\nThis makes them on purpose and, on the published items, says which comes nearest to the published scores:\n"
    )
    return "\n".join([*lines, f"    {command}"])


def report(
    out: Path, model: str, source: str, known: Iterable[Checkpoint], benchmarks: Sequence[Benchmark], files: str
) -> str:
    """If ``source`` is one of the ``known`` checkpoints: its known scores beside those that ``model`` has in ``out`` on
    the same items, and a warning if any is off. ``files``: the folder of the benchmarks. Empty if nothing is known."""
    if (checkpoint := published.find(source, known)) is None:
        return ""
    names = [benchmark.name for benchmark in benchmarks]
    found = {one.benchmark: one for one in results.load(out) if one.model == model and one.benchmark in names}
    lines = [line for line in compare(out, model, checkpoint, found) if line.verdict not in (OTHER, MISSING)]
    if not lines:
        return ""
    named = escape.line(model)
    text = f"Known scores of {checkpoint.row}, which {named} is by its source, {source}:\n\n{table(lines)}"
    if bad := off(lines):
        text += f"\nWARNING: {named} is off its known scores on {', '.join(bad)}. "
        text += explained(model, source, bad, files, str(out)) + "\n"
    return text
