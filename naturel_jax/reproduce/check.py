"""Compares measured scores with known ones, and names likely causes where they differ."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.evaluators import results
from naturel_jax.evaluators.results import Result
from naturel_jax.report import published
from naturel_jax.report import report as tables_of_results
from naturel_jax.reproduce.known import Checkpoint
from naturel_jax.reproduce.runner import command_line
from naturel_jax.reproduce.stages import Task, Work
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import read_tsv

TOLERANCE = 0.005  # one grey level between image decoders can move a score this far; known scores are rounded less

AS_KNOWN, IN_INTERVAL, OFF, OTHER, MISSING = "as known", "within the interval", "off", "other items", "not measured"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A known score beside the measured one. ``score``: value, low, high and count of ``results.Result``; empty where
    the metric was not measured. ``why``: an explanation of ``verdict``, or empty."""

    checkpoint: str
    metric: str
    known: float
    score: Mapping[str, float]
    verdict: str
    why: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of its row in the table."""
        verdict = f"{self.verdict}: {escape.markdown(self.why)}" if self.why else self.verdict
        measured = interval = differ = ""
        if self.score:
            value, low, high, count = (self.score[name] for name in ("value", "low", "high", "count"))
            measured, interval = f"{value:.4f}", f"{low:.4f} to {high:.4f}"
            differ = f"{abs(value - self.known) * count:.0f} of {count:,.0f}"
        return (self.checkpoint, self.metric, f"{self.known:.4f}", measured, interval, differ, verdict)


def compare(out: Path, known: Mapping[str, Checkpoint]) -> list[Judged]:
    """One ``Judged`` for each known score. Raises UserError for a file in ``out`` that is not a result."""
    measured = {(one.model, one.benchmark): one for one in results.load(out)}
    return [line for key, one in known.items() for line in _lines(out, key, one, measured)]


def _lines(out: Path, key: str, checkpoint: Checkpoint, measured: Mapping[tuple[str, str], Result]) -> Iterator[Judged]:
    differs: dict[str, str] = {}  # benchmark -> how its items differ from those of the known scores; empty: they do not
    for metric, value in checkpoint.scores.items():
        benchmark = metric.split("/")[0]
        result = measured.get((checkpoint.name, benchmark))
        if result is None or metric not in result.scores:
            yield Judged(key, metric, value, {}, MISSING, "no result" if result is None else "its items are not there")
            continue
        if benchmark not in differs:
            differs[benchmark] = _difference(out, checkpoint, result)
        score = result.scores[metric]
        verdict = OTHER if differs[benchmark] else judge(value, score)
        counted = "" if checkpoint.items[benchmark].digest else "its items were only counted: no digest is known"
        yield Judged(key, metric, value, score, verdict, differs[benchmark] or counted)


def judge(known: float, score: Mapping[str, float]) -> str:
    """The verdict on a score over the known items."""
    if abs(score["value"] - known) <= TOLERANCE:
        return AS_KNOWN
    return IN_INTERVAL if score["low"] <= known <= score["high"] else OFF


def _difference(out: Path, checkpoint: Checkpoint, result: Result) -> str:
    """How the items of ``result`` differ from those of the known scores; empty if they do not."""
    expected = checkpoint.items[result.benchmark]
    if result.items != expected.number:
        return f"{result.items:,} of {expected.number:,}"
    if result.problems:
        return result.problems[0]
    rows = results.load_items(out, result.model, result.benchmark, without=("boxes", "cosines"))
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


# ---- Report ----------------------------------------------------------------------------------------------------------


def report(work: Work, gaps: Sequence[str], tables: bool) -> bool:
    """Prints the comparison, and with ``tables`` the tables of all results before it; writes it to ``check.md``.
    Returns whether anything is off or missing."""
    results_folder = work.root / "results"
    lines = compare(results_folder, work.known)
    text = _markdown(work, lines, gaps)
    if tables and results_folder.exists():
        print(tables_of_results.write(results_folder))
    print(text, flush=True)
    storage.write(epath.Path(work.root) / "check.md", text)
    return any(line.verdict not in (AS_KNOWN, IN_INTERVAL) for line in lines) or bool(gaps)


def _markdown(work: Work, lines: Sequence[Judged], gaps: Sequence[str]) -> str:
    head = ("checkpoint", "score", "known", "measured", "95% interval", "items that differ", "")
    rows = [head, ["---"] * len(head), *(line.cells for line in lines)]
    count = Counter(line.verdict for line in lines)
    summary = ", ".join(f"{count[verdict]} {verdict}" for verdict in (AS_KNOWN, IN_INTERVAL, OFF, OTHER, MISSING))
    parts = [
        "# Known scores",
        "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{len(lines)} scores: {summary}.",
    ]
    for key, one in work.known.items():
        if bad := {line.metric.split("/")[0] for line in lines if line.checkpoint == key and line.verdict == OFF}:
            parts.append(f"## {key} is off on {', '.join(sorted(bad))}\n\n{_explained(work, one, bad)}")
    if gaps:
        parts.append("## Left out\n\n" + "\n".join(f"- {gap}" for gap in gaps))
    return "\n\n".join(parts) + "\n"


def _explained(work: Work, checkpoint: Checkpoint, bad: set[str]) -> str:
    """Text on how a checkpoint was read, the likely causes, and the command that makes these mistakes on purpose."""
    source = work.path_of(checkpoint)
    try:
        family, used = conventions(source)
    except (UserError, OSError) as error:
        return f"{source} cannot be read now: {error}"
    found = causes(family, bad)
    mistakes = [name for cause in found for name in cause["mistakes"].split()]
    flags = ("--models", f"{checkpoint.row or checkpoint.name}={source}", "--benchmarks", *sorted(bad))
    flags += ("--benchmarks_dir", f"{work.root}/files", "--out", f"{work.root}/mistakes", "--mistakes", *mistakes)
    lines = [f"{source} was read as {family}: {used}. Likely causes:\n"]
    lines += [f"- {cause['name']}: {cause['text']}" for cause in found]
    lines.append(
        "\nThis makes them on purpose and, on the published items, says which comes nearest to the published scores:\n"
    )
    return "\n".join([*lines, f"    {command_line(Task('naturel_jax.evaluate', flags))}"])
