"""How much of a benchmark can be solved blind: baselines that see only the captions, scored by the benchmark's own
rule.

On SugarCrepe's predecessors such baselines beat CLIP (Hsieh et al., arXiv 2306.14610, section 3).

Shape letters: N items, C captions of an item, U distinct captions, F features, P pairs of a true and a false caption.
"""

import collections
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, sparse, special

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes

FOLDS = 5
BASELINES = ("longer caption", "shorter caption", "n-grams", "text norm")
EMBEDDING = "text embedding"  # a further baseline, of a model: ``embedded``

Counts = collections.Counter[str]
Values = Mapping[str, float]  # caption -> value


def baselines(
    benchmark: Benchmark, items: Sequence[Item], matrices: Sequence[np.ndarray], norms: Values
) -> dict[str, dict[str, float]]:
    """Baseline -> metric -> value. Empty for a benchmark whose captions are not ordered by truth.

    ``longer caption`` and ``shorter caption`` count words, ``n-grams`` is a naive Bayes classifier of words and
    word pairs, cross-validated over images, ``text norm`` prefers the caption whose embedding has the larger norm
    before normalization (``norms``).
    """
    if not benchmark.true_captions or not items:
        return {}
    length = lengths(items)
    guesses = (
        length,
        [-values_C for values_C in length],
        ngrams(items, benchmark.true_captions),
        [np.array([norms[text] for text in texts(item)]) for item in items],
    )
    return {
        name: scores(benchmark, items, outcomes(benchmark, items, values, matrices))
        for name, values in zip(BASELINES, guesses, strict=True)
    }


def outcomes(
    benchmark: Benchmark, items: Sequence[Item], values: Sequence[np.ndarray], matrices: Sequence[np.ndarray] = ()
) -> Outcomes:
    """Outcomes of a model for which every image prefers the same captions: those with the larger of an item's
    ``values`` [C]. Caption rows keep the cosines in ``matrices``; without these they are zero.
    """
    kept = matrices or [np.zeros((len(item.images) + len(item.captions) * item.caption_rows, 1)) for item in items]
    return benchmark.outcomes(items, [_as_cosines(*row) for row in zip(items, values, kept, strict=True)])


def scores(benchmark: Benchmark, items: Sequence[Item], outcomes: Outcomes) -> dict[str, float]:
    """Metric -> value."""
    return {name: score.value for name, score in benchmark.means(benchmark.metrics, items, outcomes).items()}


def text_only(benchmark: Benchmark) -> dict[str, float]:
    """Metric -> value of ``n-grams``, which needs no model. Also empty where captions are compared with one another."""
    items = benchmark.items
    if not benchmark.true_captions or not items or any(item.caption_rows for item in items):
        return {}
    return scores(benchmark, items, outcomes(benchmark, items, ngrams(items, benchmark.true_captions)))


def texts(item: Item) -> tuple[str, ...]:
    """The captions of an item of a benchmark with ``true_captions``: plain texts, no ensembles."""
    return tuple(caption for caption in item.captions if isinstance(caption, str))


def lengths(items: Sequence[Item]) -> list[np.ndarray]:
    """For each item, the number of words [C] of its captions."""
    return [np.array([len(text.split()) for text in texts(item)], float) for item in items]


def _as_cosines(item: Item, values_C: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A matrix in which every image prefers the same captions; caption rows keep the model's cosines."""
    images = len(item.images)
    rows = np.broadcast_to(matrix[images:], (len(matrix) - images, len(values_C)))
    return np.concatenate([np.tile(values_C, (images, 1)), rows])


def ngrams(items: Sequence[Item], true_captions: int) -> list[np.ndarray]:
    """For each item, the log odds [C] that each caption is true, estimated from the items of other images."""
    folds = fold_numbers(items)
    counts: list[dict[bool, Counts]] = [{True: Counts(), False: Counts()} for _ in range(FOLDS)]
    captions = [{True: 0, False: 0} for _ in range(FOLDS)]
    for item, fold in zip(items, folds, strict=True):
        for n, caption in enumerate(texts(item)):
            true = n < true_captions
            counts[fold][true].update(set(grams(caption)))
            captions[fold][true] += 1
    total = {true: sum((c[true] for c in counts), Counts()) for true in (True, False)}
    number = {true: sum(c[true] for c in captions) for true in (True, False)}

    def rate(gram: str, true: bool, fold: int) -> float:
        return (total[true][gram] - counts[fold][true][gram] + 1) / (number[true] - captions[fold][true] + 2)

    @functools.cache
    def log_ratio(gram: str, fold: int) -> float:
        return math.log(rate(gram, True, fold) / rate(gram, False, fold))

    def log_odds(caption: str, fold: int) -> float:
        return sum(log_ratio(gram, fold) for gram in sorted(set(grams(caption))))

    return [
        np.array([log_odds(caption, fold) for caption in texts(item)]) for item, fold in zip(items, folds, strict=True)
    ]


def grams(caption: str) -> Iterator[str]:
    """Lowercased words, punctuation and caption boundaries, and pairs of neighbours."""
    words = ["<", *re.findall(r"\w+|[^\w\s]", caption.lower()), ">"]
    yield from words
    yield from (f"{first} {second}" for first, second in itertools.pairwise(words))


def fold_numbers(items: Sequence[Item]) -> list[int]:
    """The fold of each item, a hash of the id of the first item with its image. An image's own key would not do: it
    names a file, and the folds must not depend on where the files are."""
    first: dict[str, str] = {}
    ids = [first.setdefault(item.images[0].key, item.id) for item in items]
    return [hashlib.blake2b(one.encode(errors="surrogatepass"), digest_size=2).digest()[0] % FOLDS for one in ids]


# ---- Logistic regression ---------------------------------------------------------------------------------------------

_PENALTY = 1.0  # times half the squared norm of the weights; items weigh 1 each
_STEPS = 50  # of Newton's method, at most

Features = Any  # an array, or a sparse one, [U, F]


def learned(
    items: Sequence[Item], true_captions: int, captions: Sequence[str], features_UF: Features
) -> list[np.ndarray]:
    """For each item, the value [C] of each caption to a logistic regression that learned from the items of other images
    which of two captions is the true one.

    It is fitted to the differences between every true and every false caption of an item, without intercept, so the
    order of captions tells it nothing. ``features_UF``: those of the distinct ``captions``.
    """
    index = {caption: n for n, caption in enumerate(captions)}
    ids = [np.array([index[text] for text in texts(item)]) for item in items]
    fold_N = np.array(fold_numbers(items))
    pairs = [list(itertools.product(ids_C[:true_captions], ids_C[true_captions:])) for ids_C in ids]
    item_P = np.repeat(np.arange(len(items)), [len(of_item) for of_item in pairs])
    pairs_P2 = np.array([pair for of_item in pairs for pair in of_item], int).reshape(-1, 2)
    weight_P = 1 / np.bincount(item_P, minlength=len(items))[item_P]
    fitted = (_fit(features_UF, pairs_P2, np.where(fold_N[item_P] == fold, 0, weight_P)) for fold in range(FOLDS))
    values = [features_UF @ weights_F for weights_F in fitted]
    return [values[fold][ids_C] for fold, ids_C in zip(fold_N, ids, strict=True)]


def _fit(features_UF: Features, pairs_P2: np.ndarray, weight_P: np.ndarray) -> np.ndarray:
    """The weights [F] that give the first caption of a pair the larger value."""
    (true_P, false_P), (number, size) = pairs_P2.T, features_UF.shape
    columns_FU = features_UF.T

    def margins(weights_F: np.ndarray) -> np.ndarray:
        value_U = features_UF @ weights_F
        return value_U[true_P] - value_U[false_P]

    def pulled(x_P: np.ndarray) -> np.ndarray:  # the transpose of ``margins``
        return columns_FU @ (np.bincount(true_P, x_P, number) - np.bincount(false_P, x_P, number))

    def loss(weights_F: np.ndarray) -> tuple[float, np.ndarray]:
        margin_P = margins(weights_F)
        penalty = _PENALTY / 2 * weights_F @ weights_F
        gradient_F = _PENALTY * weights_F - pulled(weight_P * special.expit(-margin_P))
        return weight_P @ np.logaddexp(0, -margin_P) + penalty, gradient_F

    def curvature(weights_F: np.ndarray, direction_F: np.ndarray) -> np.ndarray:
        share_P = special.expit(margins(weights_F))
        return _PENALTY * direction_F + pulled(weight_P * share_P * (1 - share_P) * margins(direction_F))

    options = {"maxiter": _STEPS, "xtol": 1e-4}
    return optimize.minimize(loss, np.zeros(size), jac=True, hessp=curvature, method="Newton-CG", options=options).x


def worded(items: Sequence[Item], true_captions: int) -> list[np.ndarray]:
    """``learned`` from words, pairs of neighbours, and the logarithms of the numbers of words and characters."""
    captions = distinct(items)
    ids: dict[str, int] = {}
    rows = [sorted({ids.setdefault(gram, len(ids)) for gram in grams(caption)}) for caption in captions]
    columns, ends = list(itertools.chain.from_iterable(rows)), np.cumsum([0, *map(len, rows)])
    grams_UF = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(captions), len(ids)))
    lengths_U2 = sparse.csr_array(np.log1p([[len(caption.split()), len(caption)] for caption in captions]))
    return learned(items, true_captions, captions, sparse.hstack([grams_UF, lengths_U2], format="csr"))


def embedded(
    items: Sequence[Item], true_captions: int, embeddings: Mapping[str, np.ndarray], norms: Values
) -> list[np.ndarray]:
    """``learned`` from the unit embeddings of captions and the logarithms of their norms before normalization."""
    captions = distinct(items)
    norms_U = np.array([norms[caption] for caption in captions])
    features_UF = np.column_stack([np.stack([embeddings[caption] for caption in captions]), np.log(norms_U + 1e-9)])
    return learned(items, true_captions, captions, features_UF / np.maximum(features_UF.std(axis=0), 1e-9))


def distinct(items: Sequence[Item]) -> list[str]:
    """The different captions of the items."""
    return list(dict.fromkeys(text for item in items for text in texts(item)))
