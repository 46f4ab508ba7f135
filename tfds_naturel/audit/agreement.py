"""How far annotators agree, where they do not, and the decisions that remain.

Shape letters: C captions, T triplets, R resamples, V values, K terms of a statistic.
"""

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel.captions import decisions
from tfds_naturel.captions.decisions import VERDICTS, Decisions, Key
from tfds_naturel.common import escape, extras, pages
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import unlinked

_RESAMPLES = 1000
_DRAWN = 1 << 18  # triplets of resamples in memory at a time
_MOST_PEOPLE = 50  # each of whom is compared with each


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


class Summed(NamedTuple):
    """A statistic of sums over captions, for a thousand resamples at once, which a library would take one by one.
    ``terms``: int [captions, ...] -> float [captions, terms]; ``of``: their sums [resamples, terms] -> [resamples]."""

    terms: Callable[[np.ndarray], np.ndarray]
    of: Callable[[np.ndarray], np.ndarray]


def _alpha_terms(counts_CV: np.ndarray) -> np.ndarray:
    """The coincidences of equal values, and how often each value was given (Krippendorff 2011, section C)."""
    coincidences_C = (counts_CV * (counts_CV - 1)).sum(axis=1) / (counts_CV.sum(axis=1) - 1)
    return np.column_stack([coincidences_C, counts_CV])


def _alpha_of(sums_RK: np.ndarray) -> np.ndarray:
    equal_R, given_RV = sums_RK[:, 0], sums_RK[:, 1:]
    total_R = given_RV.sum(axis=1)
    pairs_R = np.square(total_R) - np.square(given_RV).sum(axis=1)  # of different values, if drawn at random
    return 1 - np.divide((total_R - 1) * (total_R - equal_R), pairs_R, out=np.zeros(len(sums_RK)), where=pairs_R > 0)


def _kappa_terms(verdicts_C2: np.ndarray) -> np.ndarray:
    """One for the pair of verdicts."""
    return np.eye(len(VERDICTS) ** 2)[verdicts_C2 @ (len(VERDICTS), 1)]


def _kappa_of(sums_RK: np.ndarray) -> np.ndarray:
    share_RVV = (sums_RK / sums_RK.sum(axis=1, keepdims=True)).reshape(-1, len(VERDICTS), len(VERDICTS))
    chance_R = (share_RVV.sum(axis=1) * share_RVV.sum(axis=2)).sum(axis=1)
    differ_R = 1 - np.trace(share_RVV, axis1=1, axis2=2)
    return 1 - np.divide(differ_R, 1 - chance_R, out=np.zeros(len(sums_RK)), where=chance_R < 1)


ALPHA, KAPPA = Summed(_alpha_terms, _alpha_of), Summed(_kappa_terms, _kappa_of)


def interval(judged: Mapping[Key, Sequence[int]], statistic: Summed) -> tuple[float, float]:
    """95% bootstrap interval of a statistic of the rows of ``judged``, int [captions, ...]. Triplets are resampled,
    since captions of one triplet resemble one another."""
    terms_CK = statistic.terms(np.array(list(judged.values())))
    triplets, number_C = np.unique([str(triplet) for triplet, _ in judged], return_inverse=True)
    terms_TK = np.zeros((len(triplets), terms_CK.shape[1]))
    np.add.at(terms_TK, number_C, terms_CK)
    rng = np.random.default_rng(0)
    at_once = max(1, _DRAWN // len(triplets))
    sums = []
    for first in range(0, _RESAMPLES, at_once):
        drawn_RT = rng.integers(len(triplets), size=(min(at_once, _RESAMPLES - first), len(triplets)))
        sums.append(terms_TK[drawn_RT].sum(axis=1))
    low, high = np.percentile(statistic.of(np.concatenate(sums)), (2.5, 97.5)).tolist()
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
    two people. Raises UserError unless there are two people and captions that both judged, and for very many people."""
    if len(people) > _MOST_PEOPLE:
        raise UserError(f"--decisions: of {len(people):,} people; expected at most {_MOST_PEOPLE}: give fewer files")
    verdicts = {name: {key: d.verdict for key, d in sorted(decided.items())} for name, decided in people.items()}
    counts = dict(sorted(_counts(list(verdicts.values())).items()))
    if not counts:
        who = ", ".join(people) or "nobody"
        raise UserError(f"--decisions: no caption was judged by two people ({who}); give the files of two or more")
    given = {name: Counter(judged.values()) for name, judged in verdicts.items()}
    of_people = ((escape.markdown(name), *map(number.__getitem__, VERDICTS)) for name, number in given.items())
    lines = ["# Agreement", "", *pages.table(("", *VERDICTS), of_people), ""]
    lines += ["Krippendorff's alpha (nominal), and Cohen's kappa; 95% intervals by resampling triplets.", ""]
    relations: dict[str, dict[Key, list[int]]] = {}
    for (triplet, text), row in counts.items():
        relations.setdefault(triplet.relation, {})[triplet, text] = row
    rows = [_row("all", counts), *(_row(name, relations[name]) for name in sorted(relations))]
    return [*lines, *pages.table(("captions", "judged by two or more", "alpha", "95%"), rows), "", *_pairs(verdicts)]


def _row(name: str, counts: Mapping[Key, Sequence[int]]) -> tuple[object, ...]:
    low, high = interval(counts, ALPHA)
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
            same, kappa, (low, high) = (codes[:, 0] == codes[:, 1]).mean(), _kappa(codes), interval(both, KAPPA)
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
