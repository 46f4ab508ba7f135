"""Bootstrap confidence intervals of a benchmark's metrics, over images and over seeds.

Shape letters: N items, M items that a mean is over, G groups that it averages, C clusters of items that share an image
or an outcome, S seeds, R resamples.
"""

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import sparse

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes, mean_of_groups, positions

Intervals = dict[str, tuple[float, float]]  # metric name -> (low, high)
Sums = list[list[sparse.csr_array]]  # run -> weighted sums of an outcome, and total weights, [G, C]
K = TypeVar("K", bound=Hashable)

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
    return item.images[0].key if item.images else item.id


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


def mean_over_seeds(scores_SR: np.ndarray, stream: int = 1) -> np.ndarray:
    """The mean score [R] of S seeds, of which each resample draws S again, with its scores on the same resample of the
    images: a bootstrap over two crossed factors (Owen, arXiv 0711.2371). Equal numbers of seeds are drawn in pairs,
    unless their ``stream`` differs.

    The difference of the drawn seeds from all of them is scaled by sqrt(S / (S - 1)), since the variance of a bootstrap
    is (S - 1) / S of the unbiased one (Davison and Hinkley, 1997, section 2.3). One seed has no spread.
    """
    seeds, resamples = scores_SR.shape
    drawn_RS = np.random.default_rng(stream).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    scale = np.sqrt(seeds / max(seeds - 1, 1))
    return np.mean(scores_SR, axis=0) + scale * np.mean((drawn_RS.T - 1) * scores_SR, axis=0)


def p_value(difference_R: np.ndarray) -> float:
    """Two-sided p of a resampled difference: twice the share on the smaller side of 0, counting the data as one more
    resample (Davison and Hinkley, 1997, equation 4.11)."""
    known_R = difference_R[~np.isnan(difference_R)]
    smaller = min(np.sum(known_R <= 0), np.sum(known_R >= 0))
    return float(min(1.0, 2 * (smaller + 1) / (len(known_R) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, 1979), in the same order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, p_values[n] * (len(p_values) - rank)))
        adjusted[n] = largest
    return adjusted
