"""How far annotators agree, where they do not, and the decisions that remain."""

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfds_naturel.captions import decisions
from tfds_naturel.captions.decisions import VERDICTS, Decisions, Key
from tfds_naturel.common import escape, extras, pages
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import unlinked

_RESAMPLES = 1000


def alpha(people: Sequence[Mapping[Any, Hashable]]) -> tuple[float, int]:
    """(Krippendorff's nominal alpha, number of items judged by two or more): agreement beyond chance of people (item ->
    value), who need not have judged the same items.

    Alpha is NaN if no item was judged twice, and 1 if all judgements of such items are the same. Raises UserError if
    ``krippendorff`` is not installed.
    """
    counts = _counts(people)
    return _alpha(np.array(list(counts.values()))), len(counts)


def _counts(people: Sequence[Mapping[Any, Hashable]]) -> dict[Any, list[int]]:
    """Item judged by two or more -> how often each value was given."""
    values = sorted({value for judged in people for value in judged.values()}, key=str)
    found: dict[Any, Counter[Hashable]] = {}
    for judged in people:
        for key, value in judged.items():
            found.setdefault(key, Counter())[value] += 1
    return {key: [given[value] for value in values] for key, given in found.items() if given.total() > 1}


def _alpha(counts: np.ndarray) -> float:
    """Alpha of counts int [items, values]."""
    if not len(counts):
        return float("nan")
    if (counts.sum(axis=0) > 0).sum() < 2:
        return 1.0
    krippendorff = extras.library("krippendorff", "audit")
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def _kappa(verdicts: np.ndarray) -> float:
    """Cohen's kappa of two people's verdicts, int [captions, 2]; 1 if all are the same."""
    if (verdicts == verdicts[0, 0]).all():
        return 1.0
    return float(extras.library("sklearn.metrics", "audit").cohen_kappa_score(*verdicts.T))


def interval(
    judged: Mapping[Key, Sequence[int]], statistic: Callable[[np.ndarray], float] = _alpha
) -> tuple[float, float]:
    """95% bootstrap interval of a statistic of the rows of ``judged``, int [captions, ...]. Triplets are resampled,
    since captions of one triplet resemble one another."""
    rows = np.array(list(judged.values()))
    _, numbers = np.unique([str(triplet) for triplet, _ in judged], return_inverse=True)
    groups = [np.flatnonzero(numbers == n) for n in range(numbers.max() + 1)]
    rng = np.random.default_rng(0)
    resampled = (rng.integers(len(groups), size=len(groups)) for _ in range(_RESAMPLES))
    found = [statistic(rows[np.concatenate([groups[n] for n in chosen])]) for chosen in resampled]
    low, high = np.percentile(found, (2.5, 97.5)).tolist()
    return low, high


def disagreements(people: Mapping[str, Decisions]) -> dict[Key, str]:
    """Caption -> who said what, for those that got different verdicts or were called unclear."""
    keys = sorted({key for decided in people.values() for key in decided})
    said = {key: {name: decided[key] for name, decided in people.items() if key in decided} for key in keys}
    return {
        key: "; ".join(f"{name}: {d.verdict}{f' ({d.reason})' if d.reason else ''}" for name, d in of_key.items())
        for key, of_key in said.items()
        if {d.verdict for d in of_key.values()} not in ({"accept"}, {"reject"})
    }


def report(people: Mapping[str, Decisions]) -> list[str]:
    """The report's lines: what each person decided, alpha for all captions and by relation, and Cohen's kappa of every
    two people. Raises UserError unless there are two people and captions that both judged."""
    verdicts = {name: {key: d.verdict for key, d in sorted(decided.items())} for name, decided in people.items()}
    counts = dict(sorted(_counts(list(verdicts.values())).items()))
    if not counts:
        who = ", ".join(people) or "nobody"
        raise UserError(f"--decisions: no caption was judged by two people ({who}); give the files of two or more")
    given = {name: Counter(judged.values()) for name, judged in verdicts.items()}
    of_people = ((escape.markdown(name), *map(number.__getitem__, VERDICTS)) for name, number in given.items())
    lines = ["# Agreement", "", *pages.table(("", *VERDICTS), of_people), ""]
    lines += ["Krippendorff's alpha (nominal), and Cohen's kappa; 95% intervals by resampling triplets.", ""]
    rows = [_row("all", counts)]
    for relation in sorted({triplet.relation for triplet, _ in counts}):
        rows.append(_row(relation, {key: row for key, row in counts.items() if key[0].relation == relation}))
    return [*lines, *pages.table(("captions", "judged by two or more", "alpha", "95%"), rows), "", *_pairs(verdicts)]


def _row(name: str, counts: Mapping[Key, Sequence[int]]) -> tuple[object, ...]:
    low, high = interval(counts)
    value = _alpha(np.array(list(counts.values())))
    return escape.markdown(name), len(counts), f"{value:.3f}", f"{low:.3f} to {high:.3f}"


def _pairs(verdicts: Mapping[str, Mapping[Key, str]]) -> list[str]:
    rows = []
    for a, b in itertools.combinations(verdicts, 2):
        both = {
            key: [VERDICTS.index(verdicts[name][key]) for name in (a, b)] for key in verdicts[a] if key in verdicts[b]
        }
        if both:
            codes = np.array(list(both.values()))
            same, kappa, (low, high) = (codes[:, 0] == codes[:, 1]).mean(), _kappa(codes), interval(both, _kappa)
            who = escape.markdown(f"{a} and {b}")
            rows.append((who, len(both), f"{same:.3f}", f"{kappa:.3f}", f"{low:.3f} to {high:.3f}"))
    return [*pages.table(("people", "judged by both", "same verdict", "Cohen's kappa", "95%"), rows), ""]


def settled(people: Mapping[str, Decisions], adjudicated: Mapping[Key, decisions.Decision]) -> list[tuple[str, ...]]:
    """Rows of (triplet, text, decision, reason) for all captions that were judged: what was adjudicated, or else the
    majority's verdict, with what was said where people differ."""
    said = disagreements(people)
    found = {key: decisions.Decision(v, said.get(key, "")) for key, v in decisions.majority(people.values()).items()}
    found |= adjudicated
    return [
        (str(triplet), text, found[triplet, text].verdict, escape.cell(found[triplet, text].reason)[:1000])
        for triplet, text in sorted(found)
    ]


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV file, with a checksum in each row."""
    summed = [(*row, decisions.checksum(zip(columns, row, strict=True))) for row in rows]
    with unlinked(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(*columns, decisions.CHECKSUM), *summed])
