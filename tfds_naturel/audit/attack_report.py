"""The audit's section on text-only attacks, and the hard pairs, which no text-only model gets right."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfds_naturel.audit import attack
from tfds_naturel.audit.attack import MODELS, Pair, Score, View
from tfds_naturel.captions.bank import FIXED, Bank
from tfds_naturel.common import escape
from tfds_naturel.common.schema import Caption, Triplet

GROUPINGS: dict[str, Callable[[Pair], str]] = {
    "triplet": lambda pair: pair.group,
    "object": lambda pair: Triplet.parse(pair.group).object,
    "relation": lambda pair: pair.relation,
}
_FILE = Path(__file__).with_name("attack_report.md")  # the texts above the tables
HARD_COLUMNS = ("triplet", "pair", "operation", "positive", "negative")
_SECTIONS = re.findall(r"^# (\w+)\n\n(.*?)\n(?=\n# |\Z)", _FILE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
_TEXTS = {name: text.replace("{folds}", str(attack.FOLDS)) for name, text in _SECTIONS}

Wins = dict[tuple[str, str, str], np.ndarray]  # (grouping, view, model) -> wins [P]


def complex_captions(bank: Bank) -> list[tuple[Caption, Caption]]:
    """The (positive, negative) captions of every complex pair in its fixed wording, in the order of the bank."""
    return [pair for captions in bank.values() for pair in zip(captions[2:FIXED:2], captions[3:FIXED:2], strict=True)]


def bank_pairs(bank: Bank) -> list[Pair]:
    """The complex pairs to attack, in their fixed wording, grouped by triplet."""
    return [_pair(positive, negative) for positive, negative in complex_captions(bank)]


def all_pairs(bank: Bank) -> list[Pair]:
    """The complex pairs in all their wordings, grouped by triplet."""
    pairs = (pair for captions in bank.values() for pair in zip(captions[::2], captions[1::2], strict=True))
    return [_pair(positive, negative) for positive, negative in pairs if positive.kind == "complex"]


def _pair(positive: Caption, negative: Caption) -> Pair:
    return Pair(positive.text, negative.text, str(positive.triplet), positive.triplet.relation, negative.operation)


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
    lines += _head("folds by", "view", *MODELS)
    for grouping, view in dict.fromkeys((grouping, view) for grouping, view, _ in wins):
        regrouped = _regrouped(pairs, grouping)
        scores = [attack.score(regrouped, wins[grouping, view, model]) for model in MODELS]
        lines.append(_row(grouping, view, *map(_cell, scores)))
    lines += [*_masked("folds by triplet", pairs, wins, views["masked"]), *_hard(pairs, hard(wins))]
    return lines + (_other_benchmarks(others, views) if others else [])


def world_section(seen: Sequence[Pair], unseen: Sequence[Pair], views: Mapping[str, View]) -> list[str]:
    """The report's lines on a drawn world: ``seen`` pairs in folds by triplet, and ``unseen`` ones by models trained on
    all seen ones.
    """
    wins = {
        ("triplet", view, model): attack.wins(seen, views[view], MODELS[model]) for view in views for model in MODELS
    }
    lines = ["## Text-only attacks", "", _TEXTS["world"], "", *_head("triplets", "view", *MODELS)]
    for view in views:
        lines.append(_row("seen", view, *(_cell(attack.score(seen, wins["triplet", view, name])) for name in MODELS)))
    for view in views:
        unseen_wins = [attack.as_wins(model(seen, unseen, views[view])) for model in MODELS.values()]
        lines.append(_row("held out", view, *(_cell(attack.score(unseen, wins_P)) for wins_P in unseen_wins)))
    return lines + _masked("seen triplets", seen, wins, views["masked"])


def paraphrases(pairs: Sequence[Pair], views: Mapping[str, View]) -> list[str]:
    """The report's lines on the bank's complex pairs in all their wordings (``all_pairs``)."""
    lines = ["### All paraphrases", "", _TEXTS["paraphrases"], "", *_head("view", "pairs", *MODELS)]
    for name, view in views.items():
        scores = [attack.score(pairs, attack.wins(pairs, view, model)) for model in MODELS.values()]
        lines.append(_row(name, len(pairs), *map(_cell, scores)))
    return [*lines, ""]


def hard(wins: Wins) -> np.ndarray:
    """Which pairs no model gets right under any view with folds by triplet, bool [P]."""
    return np.all([wins_P < 1 for (grouping, _, _), wins_P in wins.items() if grouping == "triplet"], axis=0)


def save_hard(path: Path, bank: Bank, hard_P: np.ndarray) -> None:
    """Writes the hard pairs, one tab-separated row each."""
    rows = [HARD_COLUMNS]
    for (positive, negative), is_hard in zip(complex_captions(bank), hard_P, strict=True):
        if is_hard:
            fields = (str(positive.triplet), str(positive.pair), negative.operation, positive.text, negative.text)
            rows.append(fields)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def _masked(which: str, pairs: Sequence[Pair], wins: Wins, view: View) -> list[str]:
    """The report's lines on what the masked captions give away, by relation and operation, and by n-gram."""
    kinds = [*_head("pairs", "number", *MODELS), *_by_kind(pairs, wins)]
    grams = [_row(escape.code(gram), true, false) for gram, true, false in attack.giveaways(pairs, view)]
    grams = [*_head("n-gram", "in the true caption only", "in the false caption only"), *grams]
    title = "The n-grams of the masked captions that tell most:"
    return ["", f"Masked, {which}:", "", *kinds, "", title, "", *grams, ""]


def _regrouped(pairs: Sequence[Pair], grouping: str) -> list[Pair]:
    return [dataclasses.replace(pair, group=GROUPINGS[grouping](pair)) for pair in pairs]


def _by_kind(pairs: Sequence[Pair], wins: Wins) -> list[str]:
    rows_of: dict[str, list[int]] = {}
    for field in ("relation", "operation"):
        for row, pair in enumerate(pairs):
            rows_of.setdefault(f"{field} {escape.code(getattr(pair, field))}", []).append(row)
    lines = []
    for name, rows in rows_of.items():
        chosen = [pairs[row] for row in rows]
        scores = (attack.score(chosen, wins["triplet", "masked", model][rows]) for model in MODELS)
        lines.append(_row(name, len(rows), *map(_cell, scores)))
    return lines


def _hard(pairs: Sequence[Pair], hard_P: np.ndarray) -> list[str]:
    total = Counter(pair.relation for pair in pairs)
    found = Counter(pair.relation for pair, is_hard in zip(pairs, hard_P, strict=True) if is_hard)
    rows = [_row(escape.code(relation), total[relation], found[relation]) for relation in total]
    head = _head("relation", "pairs", "hard")
    return ["### Hard pairs", "", _TEXTS["hard"], "", *head, *rows, _row("all", len(pairs), found.total()), ""]


def _other_benchmarks(others: Mapping[str, Sequence[Pair]], views: Mapping[str, View]) -> list[str]:
    lines = ["### The same attacks on other benchmarks", "", _TEXTS["others"], "", *_head("", "pairs", "view", *MODELS)]
    for name, pairs in others.items():
        for view in ("raw", "masked"):
            scores = [attack.score(pairs, attack.wins(pairs, views[view], model)) for model in MODELS.values()]
            lines.append(_row(name, len(pairs), view, *map(_cell, scores)))
    return [*lines, ""]


def _head(*columns: str) -> list[str]:
    return [_row(*columns), "|---" * len(columns) + "|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _cell(score: Score) -> str:
    return f"{score.accuracy:.3f} ({score.low:.3f}-{score.high:.3f})"
