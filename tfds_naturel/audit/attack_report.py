"""The audit's section on text-only attacks.

Shape letters: P pairs.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfds_naturel.audit import attack
from tfds_naturel.audit.attack import MODELS, Pair, Score, View
from tfds_naturel.captions.bank import FIXED, Bank
from tfds_naturel.captions.relations import is_mirrored
from tfds_naturel.common import escape, pages
from tfds_naturel.common.schema import Caption, Triplet

GROUPINGS: dict[str, Callable[[Pair], str]] = {
    "triplet": lambda pair: pair.group,
    "object": lambda pair: Triplet.parse(pair.group).object,
    "relation": lambda pair: pair.relation,
}
_FILE = Path(__file__).with_name("attack_report.md")  # the texts above the tables
_SECTIONS = re.findall(r"^# (\w+)\n\n(.*?)\n(?=\n# |\Z)", _FILE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
_TEXTS = {name: text.replace("{folds}", str(attack.FOLDS)) for name, text in _SECTIONS}

Wins = dict[tuple[str, str, str], np.ndarray]  # (grouping, view, model) -> wins [P]


def complex_captions(bank: Bank) -> list[tuple[Caption, Caption]]:
    """The (positive, negative) captions of every complex pair in its fixed wording, in the order of the bank."""
    return [pair for captions in bank.values() for pair in zip(captions[2:FIXED:2], captions[3:FIXED:2], strict=True)]


def bank_pairs(bank: Bank) -> list[Pair]:
    """The complex pairs to attack, in their fixed wording, grouped by triplet."""
    return [_pair(positive, negative, bank) for positive, negative in complex_captions(bank)]


def all_pairs(bank: Bank) -> list[Pair]:
    """The complex pairs in all their wordings, grouped by triplet."""
    pairs = (pair for captions in bank.values() for pair in zip(captions[::2], captions[1::2], strict=True))
    return [_pair(positive, negative, bank) for positive, negative in pairs if positive.kind == "complex"]


def _pair(positive: Caption, negative: Caption, bank: Bank) -> Pair:
    triplet, mirrored = positive.triplet, ("no", "yes")[is_mirrored(negative.asserts, bank)]
    return Pair(positive.text, negative.text, str(triplet), triplet.relation, negative.operation, mirrored)


def bank_views(bank: Bank) -> dict[str, View]:
    """The views in which the nouns are those of the bank's classes."""
    things = {triplet.object for triplet in bank if triplet.relation != "is"}
    return attack.views({triplet.subject for triplet in bank} | things)


def attack_all(pairs: Sequence[Pair], views: Mapping[str, View]) -> Wins:
    """Every model under every view, with every grouping that has at least two groups."""
    wins: Wins = {}
    for grouping in GROUPINGS:
        regrouped = _regrouped(pairs, grouping)
        if len({pair.group for pair in regrouped}) > 1:
            for view, model in itertools.product(views, MODELS):
                wins[grouping, view, model] = attack.wins(regrouped, views[view], MODELS[model])
    return wins


def section(
    pairs: Sequence[Pair], wins: Wins, views: Mapping[str, View], others: Mapping[str, Sequence[Pair]]
) -> list[str]:
    """The report's lines on the bank's ``pairs`` and on ``others`` (name -> pairs)."""
    lines = ["## Text-only attacks on the complex pairs", "", _TEXTS["introduction"], ""]
    rows = []
    for grouping, view in dict.fromkeys((grouping, view) for grouping, view, _ in wins):
        regrouped = _regrouped(pairs, grouping)
        scores = [attack.score(regrouped, wins[grouping, view, model]) for model in MODELS]
        rows.append((grouping, view, *map(_cell, scores)))
    lines += pages.table(("folds by", "view", *MODELS), rows)
    lines += [*_masked("folds by triplet", pairs, wins, views["masked"]), *_mirrored(pairs, wins, views)]
    return lines + (_other_benchmarks(others, views) if others else [])


def world_section(seen: Sequence[Pair], unseen: Sequence[Pair], views: Mapping[str, View]) -> list[str]:
    """The report's lines on a drawn world: ``seen`` pairs in folds by triplet, and ``unseen`` ones by models trained on
    all seen ones.
    """
    wins = {
        ("triplet", view, model): attack.wins(seen, views[view], MODELS[model]) for view in views for model in MODELS
    }
    rows = [
        ("seen", view, *(_cell(attack.score(seen, wins["triplet", view, name])) for name in MODELS)) for view in views
    ]
    for view in views:
        unseen_wins = [attack.as_wins(model(seen, unseen, views[view])) for model in MODELS.values()]
        rows.append(("held out", view, *(_cell(attack.score(unseen, wins_P)) for wins_P in unseen_wins)))
    lines = ["## Text-only attacks", "", _TEXTS["world"], "", *pages.table(("triplets", "view", *MODELS), rows)]
    return lines + _masked("seen triplets", seen, wins, views["masked"])


def paraphrases(pairs: Sequence[Pair], views: Mapping[str, View]) -> list[str]:
    """The report's lines on the bank's complex pairs in all their wordings (``all_pairs``)."""
    rows = []
    for name, view in views.items():
        scores = [attack.score(pairs, attack.wins(pairs, view, model)) for model in MODELS.values()]
        rows.append((name, len(pairs), *map(_cell, scores)))
    return ["### All paraphrases", "", _TEXTS["paraphrases"], "", *pages.table(("view", "pairs", *MODELS), rows), ""]


def _masked(which: str, pairs: Sequence[Pair], wins: Wins, view: View) -> list[str]:
    """The report's lines on what the masked captions give away, by relation and operation, and by n-gram."""
    kinds = pages.table(("pairs", "number", *MODELS), _by_kind(pairs, wins))
    told = ((escape.code(gram), *counts) for gram, *counts in attack.giveaways(pairs, view))
    grams = pages.table(("n-gram", "in the true caption only", "in the false caption only"), told)
    title = "The n-grams of the masked captions that tell most:"
    return ["", f"Masked, {which}:", "", *kinds, "", title, "", *grams, ""]


def _regrouped(pairs: Sequence[Pair], grouping: str) -> list[Pair]:
    return [dataclasses.replace(pair, group=GROUPINGS[grouping](pair)) for pair in pairs]


def _by_kind(pairs: Sequence[Pair], wins: Wins) -> Iterator[tuple[object, ...]]:
    rows_of: dict[str, list[int]] = {}
    for field in ("relation", "operation"):
        for row, pair in enumerate(pairs):
            rows_of.setdefault(f"{field} {escape.code(getattr(pair, field))}", []).append(row)
    for name, rows in rows_of.items():
        chosen = [pairs[row] for row in rows]
        scores = (attack.score(chosen, wins["triplet", "masked", model][rows]) for model in MODELS)
        yield name, len(rows), *map(_cell, scores)


def _mirrored(pairs: Sequence[Pair], wins: Wins, views: Iterable[str]) -> list[str]:
    """The report's lines on the pairs whose claim is true of other photos, and on the others, with folds by triplet."""
    chosen = {value: [n for n, pair in enumerate(pairs) if pair.mirrored == value] for value in ("yes", "no")}
    total, found = Counter(pair.relation for pair in pairs), Counter(pairs[n].relation for n in chosen["yes"])
    shares = [(escape.code(relation), number, found[relation] / number) for relation, number in total.items()]
    shares.append(("all", len(pairs), found.total() / len(pairs)))
    shown = pages.table(("relation", "pairs", "mirrored"), ((*row, f"{share:.2f}") for *row, share in shares))
    told: list[tuple[object, ...]] = []
    for (value, rows), view in itertools.product(chosen.items(), views):
        if rows:
            of_value = [pairs[n] for n in rows]
            scores = (attack.score(of_value, wins["triplet", view, model][rows]) for model in MODELS)
            told.append((value, view, len(rows), *map(_cell, scores)))
    lines = ["### Mirrored pairs", "", _TEXTS["mirrored"], "", *shown, ""]
    return [*lines, *pages.table(("mirrored", "view", "pairs", *MODELS), told), ""]


def _other_benchmarks(others: Mapping[str, Sequence[Pair]], views: Mapping[str, View]) -> list[str]:
    rows = []
    for name, pairs in others.items():
        for view in ("raw", "masked"):
            scores = [attack.score(pairs, attack.wins(pairs, views[view], model)) for model in MODELS.values()]
            rows.append((name, len(pairs), view, *map(_cell, scores)))
    table = pages.table(("", "pairs", "view", *MODELS), rows)
    return ["### The same attacks on other benchmarks", "", _TEXTS["others"], "", *table, ""]


def _cell(score: Score) -> str:
    return f"{score.accuracy:.3f} ({score.low:.3f}-{score.high:.3f})"
