"""Confidence intervals of a benchmark's metrics: a bootstrap over images, and the variance of seeds.

Shape letters: N items, M items that a mean is over, G groups that it averages, C clusters of items that share an image
or an outcome, S seeds, R resamples.
"""

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import optimize, sparse, special

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes, mean_of_groups, positions

Intervals = dict[str, tuple[float, float]]  # metric name -> (low, high)
Sums = list[list[sparse.csr_array]]  # run -> weighted sums of an outcome, and total weights, [G, C]
K = TypeVar("K", bound=Hashable)

_EQUAL = 1e-12  # scores that differ by rounding only
_SMALLEST = 1e-100  # p-value
_CHUNK = 100  # resamples at a time, and more of few clusters, to bound memory
_BLOCK = 1_000  # metrics at a time, to bound memory too
_KEPT = 5_000  # clusters: draws of so many are 10 MB for 1000 resamples


def intervals(benchmark: Benchmark, items: Sequence[Item], outcomes: Outcomes, *, resamples: int = 1000) -> Intervals:
    """Metric name -> (2.5th, 97.5th percentile) over resamples of the *images*: items that share one are resampled
    together, since they are not independent (cluster bootstrap; Davison and Hinkley, 1997, section 3.8). So are those
    that the benchmark scores together.
    """
    return {name: bounds(scores_SR[0]) for name, (_, scores_SR) in resample(benchmark, items, [outcomes], resamples)}


def bounds(scores_R: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a resampled score."""
    low, high = np.nanpercentile(scores_R, (2.5, 97.5))
    return float(low), float(high)


def resample(
    benchmark: Benchmark, items: Sequence[Item], runs: Sequence[Outcomes], resamples: int
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(metric, (scores [S], scores [S, R])) of the ``runs``, S evaluations of the same items: as they are, and on R
    resamples of the images. All runs and metrics are scored on the same resamples."""
    _, cluster_N = np.unique([image_of(item, benchmark.together) for item in items], return_inverse=True)
    sums = sums_by_image(benchmark, items, runs, cluster_N)
    yield from resample_sums(sums, int(cluster_N.max(initial=-1)) + 1, resamples)


def image_of(item: Item, together: str) -> str:
    """Names the image that an item is resampled with, or what it shares the tag ``together`` with."""
    if together in item.tags:
        return str(item.tags[together])
    return first_of([image.key for image in item.images]) or item.id


def first_of(images: Sequence[str]) -> str:
    """The one of an item's images that stands for it: the first, or of a choice among more than two, the same for all
    choices among these, such as the descriptions of a set of ImageCoDe. "" without images."""
    return min(images) if len(images) > 2 else next(iter(images), "")


def sums_by_image(
    benchmark: Benchmark, items: Sequence[Item], runs: Sequence[Outcomes], cluster_N: np.ndarray
) -> dict[str, Sums]:
    """Metric -> its sums, of the metrics that all ``runs`` have. ``cluster_N``: the number of each item's image."""
    clusters = int(cluster_N.max(initial=-1)) + 1
    by_tag = positions(items, benchmark.tags)
    found: dict[str, Sums] = {}
    for metric in benchmark.metrics:
        scored = []
        for outcomes in runs:
            values_N = outcomes[metric.outcome]
            index_M, groups_M = metric.members(~np.isnan(values_N), by_tag)
            if len(index_M):
                shape, places = (groups_M[-1] + 1, clusters), (groups_M, cluster_N[index_M])
                weights_M = metric.weights(items, index_M)
                terms = weights_M * values_N[index_M], weights_M
                scored.append([sparse.csr_array((term_M, places), shape=shape) for term_M in terms])
        if len(scored) == len(runs):
            found[metric.name] = scored
    return found


def resample_sums(
    sums: Mapping[K, Sums], clusters: int, resamples: int
) -> Iterator[tuple[K, tuple[np.ndarray, np.ndarray]]]:
    """What ``resample`` returns, of sums over the first images of ``clusters``, whatever benchmark they are from."""
    names = list(sums)
    for start in range(0, len(names), _BLOCK):
        parts: dict[K, list[np.ndarray]] = {name: [] for name in names[start : start + _BLOCK]}
        for drawn_CR in _draws(clusters, resamples):
            for name, scores in parts.items():
                of_runs = ((x @ drawn_CR[: x.shape[1]] for x in terms) for terms in sums[name])
                scores.append(np.stack([mean_of_groups(*terms) for terms in of_runs]))
        for name, (first, *others) in parts.items():
            yield name, (first[:, 0], np.concatenate(others, axis=1))


def _draws(clusters: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn [C, R]: once, then in ``resamples`` resamples, in chunks."""
    yield np.ones((clusters, 1))
    chunks = _kept_draws(clusters, resamples) if clusters <= _KEPT else _multinomials(clusters, resamples)
    for drawn_RC in chunks:
        yield np.ascontiguousarray(drawn_RC.T, float)


@functools.lru_cache(maxsize=16)
def _kept_draws(clusters: int, resamples: int) -> list[np.ndarray]:
    """``_multinomials``, kept for the next benchmark or model with as many clusters: drawing takes most of the time of
    a small benchmark's intervals."""
    return [drawn_RC.astype(np.uint16) for drawn_RC in _multinomials(clusters, resamples)]


def _multinomials(clusters: int, resamples: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    chunk = max(_CHUNK, _CHUNK * _KEPT // clusters)
    for start in range(0, resamples, chunk):
        yield rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=min(chunk, resamples - start))


class Estimate(NamedTuple):
    """The 95% interval of a score or of a difference of scores, and its two-sided p-value."""

    low: float
    high: float
    p: float


def estimate(value: float, resampled_R: np.ndarray, seeds: Sequence[np.ndarray]) -> Estimate:
    """What images and seeds say of ``value``, a mean score of several seeds, or the difference of two.

    ``resampled_R``: it, of the same seeds, on resamples of the images; ``seeds``: the scores [S] of each group of seeds
    that were drawn apart, such as the differences of pairs, or both sides. Images and seeds are crossed factors, whose
    variances add up (Owen, arXiv 0711.2371; what they share is in both). The interval of the images is normal, that of
    each group Student's t, and the squares of their half widths add up (MOVER; Zou and Donner, 2008). That is rather
    too wide than too narrow, whereas intervals from resampling a few seeds are too narrow. One seed has no variance.
    ``p``: the level at which the interval reaches 0.
    """
    of_images = float(np.nanvar(resampled_R))
    of_seeds = [(float(np.var(x_S, ddof=1)) / len(x_S), len(x_S) - 1) for x_S in seeds if len(x_S) > 1]

    def half(p: float) -> float:
        squares = [of_images * special.ndtri(p / 2) ** 2]
        squares += [variance * special.stdtrit(freedom, p / 2) ** 2 for variance, freedom in of_seeds]
        return math.sqrt(sum(squares))

    width = half(0.05)
    if width < _EQUAL:
        return Estimate(value, value, float(abs(value) < _EQUAL))
    low, high = (math.log(end) for end in (_SMALLEST, 1.0))
    p = _SMALLEST
    if abs(value) < half(_SMALLEST):
        p = math.exp(optimize.brentq(lambda log_p: half(math.exp(log_p)) - abs(value), low, high))
    return Estimate(value - width, value + width, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, 1979), in the same order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, p_values[n] * (len(p_values) - rank)))
        adjusted[n] = largest
    return adjusted
