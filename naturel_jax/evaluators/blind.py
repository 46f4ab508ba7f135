"""How much of a benchmark can be solved blind: baselines that see only the captions, scored by the benchmark's own
rule.

On SugarCrepe's predecessors such baselines beat CLIP (Hsieh et al., arXiv 2306.14610, section 3).

Shape letters: C captions of an item.
"""

import collections
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item

FOLDS = 5
BASELINES = ("longer caption", "shorter caption", "n-grams", "text norm")

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
    length = {text: float(len(text.split())) for item in items for text in texts(item)}
    guesses = (
        [_values(length, item) for item in items],
        [-_values(length, item) for item in items],
        ngrams(items, benchmark.true_captions),
        [_values(norms, item) for item in items],
    )
    result = {}
    for name, values in zip(BASELINES, guesses, strict=True):
        scores = benchmark.score(items, [_as_cosines(*row) for row in zip(items, values, matrices, strict=True)])
        result[name] = {metric: score.value for metric, score in scores.items()}
    return result


def text_only(benchmark: Benchmark) -> dict[str, float]:
    """Metric -> value of ``n-grams``, which needs no model. Also empty where captions are compared with one another."""
    items = benchmark.items
    if not benchmark.true_captions or not items or any(item.caption_rows for item in items):
        return {}
    odds = ngrams(items, benchmark.true_captions)
    cosines = [np.tile(odds_C, (len(item.images), 1)) for item, odds_C in zip(items, odds, strict=True)]
    scores = benchmark.score(items, cosines)
    return {metric: score.value for metric, score in scores.items()}


def texts(item: Item) -> tuple[str, ...]:
    """The captions of an item of a benchmark with ``true_captions``: plain texts, no ensembles."""
    return tuple(caption for caption in item.captions if isinstance(caption, str))


def _values(values: Values, item: Item) -> np.ndarray:
    return np.array([values[text] for text in texts(item)])


def _as_cosines(item: Item, values_C: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A matrix in which every image prefers the same captions; caption rows keep the model's cosines."""
    images = len(item.images)
    return np.concatenate([np.tile(values_C, (images, 1)), matrix[images:]])


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
