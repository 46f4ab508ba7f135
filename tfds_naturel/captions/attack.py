"""Text-only attacks on pairs of captions: how often a model that sees no image picks the true text of a pair.

0.5 means that the words say nothing. Below 0.5 the texts of other groups mislead: what is false here is true there.
Every model sees the features of one text minus those of the other, so that the order of the two cannot matter.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfds_naturel.captions import lexicon

FOLDS = 5
RESAMPLES = 1000
_ANIMATE = "Man | Woman | Boy | Girl | Person | Cat | Dog | Dolphin | Elephant | Hamster | Horse | Monkey | Snake"
_THINGS = """
    Backpack | Bed | Beer | Bench | Bicycle | Bottle | Briefcase | Camera | Car | Chair | Chopsticks | Coffee cup |
    Coffee table | Desk | Drum | Flute | Football | Fork | Guitar | Handbag | Knife | Microphone | Microwave oven |
    Mobile phone | Motorcycle | Mug | Oven | Piano | Pretzel | Racket | Rugby ball | Ski | Snowboard | Sofa bed |
    Spoon | Suitcase | Surfboard | Table | Table tennis racket | Taxi | Tennis ball | Tennis racket | Van | Violin |
    Wine glass
"""
ANIMATE = frozenset(_ANIMATE.split(" | "))
_NEGATION = re.compile(r"\b(?:not|no|none|nobody|nothing|never|neither|nor|nowhere|without|cannot|\w+n't)\b")
_PASSIVE = re.compile(r"\b(?:is|are|was|were|been|being|gets?) (?:\w+ )?(?:\w+ed|held|worn|hit|struck|made|ridden)\b")
_TOKEN = r"(?u)\w[\w'-]*"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts about one image. ``group`` is what folds keep together (a triplet, an image)."""

    true: str
    false: str
    group: str
    relation: str = ""
    operation: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
    """Share of ``pairs`` won, with the bounds of its 95% interval (bootstrap over groups)."""

    accuracy: float
    low: float
    high: float
    pairs: int


View = Callable[[str], str]
Model = Callable[[Sequence[Pair], Sequence[Pair], View], np.ndarray]  # (train, test, view) -> margins [P]


def raw(text: str) -> str:
    return text.lower()


def masked(text: str) -> str:
    """Lowercased, every noun of the lexicon replaced by ``ANIM`` or ``THING``."""
    return _nouns().sub(lambda found: "ANIM" if _label(found[1]) in ANIMATE else "THING", text.lower())


def style(text: str) -> str:
    """Lowercased, every noun of the lexicon replaced by one symbol."""
    return _nouns().sub("NOUN", text.lower())


VIEWS: dict[str, View] = {"masked": masked, "raw": raw, "style": style}


def ngrams(train: Sequence[Pair], test: Sequence[Pair], view: View) -> np.ndarray:
    """Logistic regression on differences of binary 1-3-grams, without intercept."""
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    count = CountVectorizer(binary=True, ngram_range=(1, 3), lowercase=False, token_pattern=_TOKEN, dtype=np.float64)
    count.fit([view(text) for pair in train for text in (pair.true, pair.false)])

    def difference(pairs: Sequence[Pair]) -> sparse.csr_matrix:
        true, false = (count.transform([view(text) for text in texts]) for texts in _texts(pairs))
        return sparse.csr_matrix(true - false)

    seen = difference(train)
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(sparse.vstack([seen, -seen]), np.repeat([1, 0], len(train)))
    return np.asarray(model.decision_function(difference(test)))


def boosting(train: Sequence[Pair], test: Sequence[Pair], view: View) -> np.ndarray:
    """Gradient boosting on differences of ``_features``: negation, animacy, passive, length, plausibility."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    told = _Told(train, view)

    def difference(pairs: Sequence[Pair]) -> np.ndarray:
        rows = [[_features(view(text), pair.group, told) for text in (pair.true, pair.false)] for pair in pairs]
        return np.array([np.subtract(true, false) for true, false in rows])

    seen, unseen = difference(train), difference(test)
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.1, random_state=0)
    model.fit(np.concatenate([seen, -seen]), np.repeat([1, 0], len(train)))
    return np.asarray(model.decision_function(unseen) - model.decision_function(-unseen))


MODELS: dict[str, Model] = {"1-3-grams": ngrams, "boosting": boosting}


def wins(
    pairs: Sequence[Pair],
    view: View = masked,
    model: Model = ngrams,
    group_of: Callable[[Pair], str] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> np.ndarray:
    """1 for every pair whose true text scores higher, 0 where the false one does, 0.5 for a tie; float [P].

    Each pair is judged by a model trained on the pairs of other folds. Folds keep the pairs of one ``group_of`` (a
    pair's ``group`` by default) together.
    """
    keys = [group_of(pair) if group_of else pair.group for pair in pairs]
    found = np.full(len(pairs), np.nan)
    for fold in fold_groups(keys, folds, seed):
        inside = np.array([key in fold for key in keys])
        train, test = ([pair for pair, hit in zip(pairs, inside, strict=True) if hit == want] for want in (False, True))
        found[inside] = (np.sign(np.round(model(train, test, view), 9)) + 1) / 2
    return found


def fold_groups(keys: Iterable[str], folds: int = FOLDS, seed: int = 0) -> list[frozenset[str]]:
    """The distinct keys, shuffled and cut into at most ``folds`` parts. Raises ValueError for fewer than two keys."""
    distinct = np.array(sorted(set(keys)))
    if len(distinct) < 2:
        raise ValueError(f"found {len(distinct)} groups, expected at least 2: one to train on and one to test on")
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [frozenset(distinct[part].tolist()) for part in np.array_split(order, min(folds, len(distinct)))]


def score(wins_P: np.ndarray, groups: Sequence[str], seed: int = 0) -> Score:
    """Mean of ``wins_P`` and its 95% interval over resampled groups."""
    names, rows = np.unique(np.array(groups), return_inverse=True)
    sums, sizes = np.bincount(rows, wins_P, len(names)), np.bincount(rows, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), (2.5, 97.5))
    return Score(float(wins_P.mean()), float(low), float(high), len(wins_P))


def scores(pairs: Sequence[Pair], wins_P: np.ndarray) -> dict[str, Score]:
    """Scores of all pairs (key ``all``), of every relation and of every operation."""
    members: dict[str, list[int]] = {"all": list(range(len(pairs)))}
    for name in ("relation", "operation"):
        for at, pair in enumerate(pairs):
            if value := getattr(pair, name):
                members.setdefault(value if name == "relation" else f"operation {value}", []).append(at)
    return {key: score(wins_P[rows], [pairs[row].group for row in rows]) for key, rows in members.items()}


def telling(pairs: Sequence[Pair], view: View = masked, most: int = 20) -> list[tuple[str, int, int]]:
    """The n-grams that give the label away most: (n-gram, in how many true texts only, in how many false texts only).

    Sorted by the evidence against an even split, ``(t - f)^2 / (t + f)``.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    grams = CountVectorizer(ngram_range=(1, 3), lowercase=False, token_pattern=_TOKEN).build_analyzer()
    only: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for pair in pairs:
        true, false = (set(grams(view(text))) for text in (pair.true, pair.false))
        only[0].update(true - false)
        only[1].update(false - true)
    counts = [(gram, only[0][gram], only[1][gram]) for gram in only[0] | only[1]]
    return sorted(counts, key=lambda c: (-((c[1] - c[2]) ** 2) / (c[1] + c[2]), c[0]))[:most]


def _texts(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.true for pair in pairs], [pair.false for pair in pairs]


@functools.cache
def _listed() -> dict[str, str]:
    """Noun -> class, for every noun of the lexicon and the classes that are called by their own names."""
    labels = (*sorted(ANIMATE), *(name.strip() for name in _THINGS.split("|")))
    return {noun.text: label for label in labels for noun in lexicon.nouns(label)}


@functools.cache
def _nouns() -> re.Pattern[str]:
    longest = sorted(_listed(), key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest))})s?\b")


def _label(noun: str) -> str:
    return _listed()[noun]


_Trace = tuple[str, ...]


class _Told:
    """How many true and false texts of the training pairs leave a trace, by group."""

    def __init__(self, train: Sequence[Pair], view: View) -> None:
        self.by_group: tuple[Counter[tuple[str, _Trace]], ...] = (Counter(), Counter())
        for pair in train:
            for polarity, text in enumerate((pair.false, pair.true)):
                self.by_group[polarity].update((pair.group, trace) for trace in _traces(view(text)))
        self.total: tuple[Counter[_Trace], ...] = (Counter(), Counter())
        for total, counts in zip(self.total, self.by_group, strict=True):
            for (_, trace), count in counts.items():
                total[trace] += count

    def elsewhere(self, trace: _Trace, group: str) -> tuple[int, int]:
        """(in false texts, in true texts) of other groups, so that training rows look like test rows."""
        false, true = (
            total[trace] - counts[group, trace] for total, counts in zip(self.total, self.by_group, strict=True)
        )
        return false, true


def _traces(text: str) -> set[_Trace]:
    """What a text says, roughly: its nouns in order (as the view shows them) and each other word beside them."""
    nouns, tokens = _read(text)
    ends = (nouns[0], nouns[-1]) if nouns else ("", "")
    words = set(tokens) - set(nouns) - {"the", "a", "an", "is"}
    return {ends, *((word,) for word in words), *((ends[0], word, ends[1]) for word in words)}


def _read(text: str) -> tuple[list[str], list[str]]:
    """(nouns, tokens) of a text, nouns of several words made one token."""
    tied = _nouns().sub(lambda found: found[1].replace(" ", "_"), text)
    tokens = re.findall(_TOKEN, tied.replace("'s", " 's"))
    return [token for token in tokens if token in _SYMBOLS or token.replace("_", " ") in _listed()], tokens


def _features(text: str, group: str, told: _Told) -> list[float]:
    nouns, tokens = _read(text)
    kinds = [_kind(noun) for noun in nouns] or [0]
    passive = bool(_PASSIVE.search(text))
    agent = kinds[-1] if passive else kinds[0]
    owner = next((_kind(noun) for noun, mark in itertools.pairwise(tokens) if mark == "'s"), 0.5)
    negations = len(_NEGATION.findall(text))
    counts = np.array([told.elsewhere(trace, group) for trace in sorted(_traces(text))], float)
    logs, odds = np.log1p(counts[:, 1]), np.log((counts[:, 1] + 1) / (counts[:, 0] + 1))
    plausibility = [logs.mean(), logs.min(), odds.mean(), odds.min(), odds.max()]
    return [negations, kinds[0], kinds[-1], passive, agent, owner, len(tokens), len(text), *map(float, plausibility)]


def _kind(noun: str) -> float:
    return float(noun == "ANIM" or _listed().get(noun.replace("_", " ")) in ANIMATE)


_SYMBOLS = ("ANIM", "THING", "NOUN")
