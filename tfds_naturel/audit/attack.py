"""Text-only attacks on pairs of captions: how often a model that sees no image picks the true caption of a pair.

At 0.5 the words tell nothing. Below 0.5 the training pairs mislead: what is false of one image is true of another.
Swapping the captions of a pair flips the sign of every model's margin, so their order cannot matter.

Shape letters: P pairs, F features.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfds_naturel.captions import lexicon
from tfds_naturel.common import extras

FOLDS = 5
INNER_FOLDS = 3  # for the n-gram margins that boosting is trained on
RESAMPLES = 1000
_ANIMATE = "Man | Woman | Boy | Girl | Person | Cat | Dog | Dolphin | Elephant | Hamster | Horse | Monkey | Snake"
ANIMATE = frozenset(_ANIMATE.split(" | "))  # every other class is a thing
_SYMBOLS = ("ANIM", "THING", "NOUN")
_NEGATION = re.compile(r"\b(?:not|no|none|nobody|nothing|never|neither|nor|nowhere|without|cannot|\w+n't)\b")
_PASSIVE = re.compile(r"\b(?:is|are|was|were|been|being|gets?) (?:\w+ )?(?:\w+ed|held|worn|hit|struck|made|ridden)\b")
_TOKEN = r"\w[\w'-]*"
_CACHED = 1 << 17  # texts


@dataclasses.dataclass(frozen=True)
class Pair:
    """A true and a false caption of an image. Folds keep the pairs of a ``group`` (a triplet, an image) together.
    ``mirrored``: whether what the false one claims is true of other photos (``yes``, ``no``). ``kind``: ``binding`` or
    ``position``, if the two are not about one triplet.
    """

    true: str
    false: str
    group: str
    relation: str = ""
    operation: str = ""
    mirrored: str = ""
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
    """Accuracy on ``pairs``, with the bounds of its 95% interval (bootstrap over groups)."""

    accuracy: float
    low: float
    high: float
    pairs: int


class View:
    """A model's view of a text: lowercased, with the nouns of classes replaced by ``symbol(class)`` (default: kept)."""

    def __init__(self, classes: Iterable[str], symbol: Callable[[str], str] | None = None) -> None:
        self.class_of = {noun.text: label for label in sorted({*classes, *ANIMATE}) for noun in lexicon.nouns(label)}
        longest_first = sorted(self.class_of, key=len, reverse=True)
        self._nouns = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(?:e?s)?\b")
        self._symbol = symbol

    def __call__(self, text: str) -> str:
        symbol = self._symbol
        return self._nouns.sub(lambda match: symbol(self.class_of[match[1]]), text.lower()) if symbol else text.lower()

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text as seen, each noun of several words joined by underscores."""
        joined = self._nouns.sub(lambda match: match[1].replace(" ", "_"), self(text))
        return re.findall(_TOKEN, joined.replace("'s", " 's"))

    def is_noun(self, token: str) -> bool:
        return token in _SYMBOLS or token.replace("_", " ") in self.class_of

    def is_animate(self, noun: str) -> bool:
        return noun == "ANIM" or self.class_of.get(noun.replace("_", " ")) in ANIMATE


def views(classes: Iterable[str]) -> dict[str, View]:
    """The views of the audit. Nouns are those of ``classes`` and of the animate classes."""
    listed = tuple(classes)
    return {
        "masked": View(listed, lambda label: "ANIM" if label in ANIMATE else "THING"),
        "raw": View(listed),
        "style": View(listed, lambda label: "NOUN"),
    }


Model = Callable[[Sequence[Pair], Sequence[Pair], View], np.ndarray]  # (train, test, view) -> margins [P]


def ngrams(train: Sequence[Pair], test: Sequence[Pair], view: View) -> np.ndarray:
    """Logistic regression on differences of binary 1-3-grams, without intercept."""
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(binary=True, analyzer=lambda text: _grams(text, view), dtype=np.float64)
    counts = counter.fit_transform([pair.true for pair in train] + [pair.false for pair in train])
    train_PF = counts[: len(train)] - counts[len(train) :]
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(sparse.vstack([train_PF, -train_PF]), np.repeat([1, 0], len(train)))
    test_PF = counter.transform([pair.true for pair in test]) - counter.transform([pair.false for pair in test])
    return np.asarray(model.decision_function(test_PF))


def boosting(train: Sequence[Pair], test: Sequence[Pair], view: View) -> np.ndarray:
    """Gradient boosting on the margins of ``ngrams`` and on negation, animacy, voice, length and plausibility.

    See ``_features``. On the training pairs, the margins come from models trained on other groups.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    occurrences = _Occurrences(train, view)
    margins = _out_of_fold_margins(train, view), ngrams(train, test, view)
    (train_PF, train_swapped_PF), (test_PF, test_swapped_PF) = (
        _both_orders(pairs, occurrences, margins_P) for pairs, margins_P in zip((train, test), margins, strict=True)
    )
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=0)
    model.fit(np.concatenate([train_PF, train_swapped_PF]), np.repeat([1, 0], len(train)))
    return np.asarray(model.decision_function(test_PF) - model.decision_function(test_swapped_PF))


MODELS: dict[str, Model] = {"1-3-grams": ngrams, "boosting": boosting}


def wins(pairs: Sequence[Pair], view: View, model: Model) -> np.ndarray:
    """Per pair, 1 if its true caption scores higher, 0 if the false one does, 0.5 for a tie; float [P].

    Each pair is scored by a model trained on the pairs of other folds. Raises ValueError for fewer than two groups and
    UserError if scikit-learn is missing.
    """
    extras.library("sklearn", "audit")
    wins_P = np.full(len(pairs), np.nan)
    for fold in fold_groups(pair.group for pair in pairs):
        held_out_P = np.array([pair.group in fold for pair in pairs])
        train = [pair for pair in pairs if pair.group not in fold]
        test = [pair for pair in pairs if pair.group in fold]
        # With so few rows, threads only wait for one another.
        with extras.library("threadpoolctl", "audit").threadpool_limits(1):
            margins_P = model(train, test, view)
        wins_P[held_out_P] = as_wins(margins_P)
    return wins_P


def as_wins(margins_P: np.ndarray) -> np.ndarray:
    """1 for a positive margin, 0 for a negative one, 0.5 for a tie; float [P]."""
    return (np.sign(np.round(margins_P, 9)) + 1) / 2


def fold_groups(groups: Iterable[str], folds: int = FOLDS, seed: int = 0) -> list[frozenset[str]]:
    """The distinct groups, shuffled and cut into at most ``folds`` parts. Raises ValueError for fewer than two."""
    distinct = np.array(sorted(set(groups)))
    if len(distinct) < 2:
        raise ValueError(f"found {len(distinct)} groups, expected at least 2: one to train on and one to test on")
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [frozenset(distinct[part].tolist()) for part in np.array_split(order, min(folds, len(distinct)))]


def score(pairs: Sequence[Pair], wins_P: np.ndarray) -> Score:
    """Mean of ``wins_P`` and its 95% interval over resampled groups."""
    names, rows = np.unique(np.array([pair.group for pair in pairs]), return_inverse=True)
    sums, sizes = np.bincount(rows, wins_P, len(names)), np.bincount(rows, minlength=len(names))
    sampled = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(sums[sampled].sum(1) / sizes[sampled].sum(1), (2.5, 97.5))
    return Score(float(wins_P.mean()), float(low), float(high), len(wins_P))


def giveaways(pairs: Sequence[Pair], view: View, most: int = 20) -> list[tuple[str, int, int]]:
    """The most telling n-grams: (n-gram, pairs with it in the true caption only, pairs with it in the false only).

    Sorted by the evidence against an even split, ``(t - f)^2 / (t + f)``.
    """
    true_only: Counter[str] = Counter()
    false_only: Counter[str] = Counter()
    for pair in pairs:
        true, false = (set(_grams(text, view)) for text in (pair.true, pair.false))
        true_only.update(true - false)
        false_only.update(false - true)
    counts = [(gram, true_only[gram], false_only[gram]) for gram in true_only | false_only]
    return sorted(counts, key=lambda row: (-((row[1] - row[2]) ** 2) / (row[1] + row[2]), row[0]))[:most]


@functools.lru_cache(maxsize=_CACHED)
def _grams(text: str, view: View) -> tuple[str, ...]:
    """The distinct 1-3-grams of a text as seen."""
    tokens = re.findall(_TOKEN, view(text))
    return tuple(sorted({" ".join(tokens[i : i + n]) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)}))


def _out_of_fold_margins(pairs: Sequence[Pair], view: View) -> np.ndarray:
    """Margin of each pair from ``ngrams`` trained on other groups, float [P]; zeros if there is only one group."""
    margins_P = np.zeros(len(pairs))
    groups = {pair.group for pair in pairs}
    for fold in fold_groups(groups, INNER_FOLDS, seed=1) if len(groups) > 1 else []:
        train = [pair for pair in pairs if pair.group not in fold]
        test = [pair for pair in pairs if pair.group in fold]
        margins_P[[pair.group in fold for pair in pairs]] = ngrams(train, test, view)
    return margins_P


Fragment = tuple[str, ...]


class _Parsed(NamedTuple):
    """``fragments`` are the first and last noun, every other word, and every (first noun, word, last noun)."""

    surface: tuple[float, ...]
    fragments: tuple[Fragment, ...]


@functools.lru_cache(maxsize=_CACHED)
def _parse(text: str, view: View) -> _Parsed:
    seen, tokens = view(text), view.tokens(text)
    nouns = [token for token in tokens if view.is_noun(token)]
    first, last = (nouns[0], nouns[-1]) if nouns else ("", "")
    animate = [float(view.is_animate(noun)) for noun in nouns] or [0.0]
    passive = bool(_PASSIVE.search(seen))
    agent = animate[-1] if passive else animate[0]
    owners = [float(view.is_animate(noun)) for noun, mark in itertools.pairwise(tokens) if mark == "'s"]
    words = set(tokens) - set(nouns) - {"the", "a", "an", "is"}
    fragments = {(first, last), *((word,) for word in words), *((first, word, last) for word in words)}
    negations, owner = len(_NEGATION.findall(seen)), owners[0] if owners else 0.5
    surface = (negations, animate[0], animate[-1], passive, agent, owner, len(tokens), len(seen))
    return _Parsed(surface, tuple(sorted(fragments)))


class _Occurrences:
    """Number of true and false captions of the training pairs in which a fragment occurs, by group."""

    def __init__(self, train: Sequence[Pair], view: View) -> None:
        self.view = view
        self._total: Counter[tuple[bool, Fragment]] = Counter()
        self._by_group: Counter[tuple[str, bool, Fragment]] = Counter()
        for pair in train:
            for polarity, text in ((True, pair.true), (False, pair.false)):
                fragments = _parse(text, view).fragments
                self._total.update((polarity, fragment) for fragment in fragments)
                self._by_group.update((pair.group, polarity, fragment) for fragment in fragments)

    def outside(self, group: str, polarity: bool, fragment: Fragment) -> int:
        """Occurrences in other groups, so that the features of training pairs are like those of test pairs."""
        return self._total[polarity, fragment] - self._by_group[group, polarity, fragment]


def _features(text: str, group: str, occurrences: _Occurrences) -> list[float]:
    parsed = _parse(text, occurrences.view)
    true = [occurrences.outside(group, True, fragment) for fragment in parsed.fragments]
    false = [occurrences.outside(group, False, fragment) for fragment in parsed.fragments]
    logs = [math.log1p(count) for count in true]
    odds = [math.log((t + 1) / (f + 1)) for t, f in zip(true, false, strict=True)]
    plausibility = (sum(logs) / len(logs), min(logs), sum(odds) / len(odds), min(odds), max(odds))
    return [*parsed.surface, *plausibility]


def _both_orders(
    pairs: Sequence[Pair], occurrences: _Occurrences, margins_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs as rows (first caption, second caption, difference, margin): true caption first, and false one first.

    The captions themselves, beside their difference, let a tree tell relations apart.
    """
    true_PF = np.array([_features(pair.true, pair.group, occurrences) for pair in pairs])
    false_PF = np.array([_features(pair.false, pair.group, occurrences) for pair in pairs])
    return (
        np.column_stack([true_PF, false_PF, true_PF - false_PF, margins_P]),
        np.column_stack([false_PF, true_PF, false_PF - true_PF, -margins_P]),
    )
