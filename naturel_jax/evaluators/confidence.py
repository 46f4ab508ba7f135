"""Bootstrap confidence intervals of a benchmark's metrics."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes, mean_of_groups, positions

Intervals = dict[str, tuple[float, float]]  # metric name -> (low, high)

CHUNK = 100  # resamples at a time, to bound memory


def intervals(benchmark: Benchmark, items: Sequence[Item], outcomes: Outcomes, *, resamples: int = 1000) -> Intervals:
    """Metric name -> (2.5th, 97.5th percentile) over resamples of the *images*: items that share one are resampled
    together, since they are not independent (cluster bootstrap; Davison and Hinkley, 1997, section 3.8).
    """
    _, cluster_N = np.unique([item.images[0].key if item.images else item.id for item in items], return_inverse=True)
    clusters = int(cluster_N.max(initial=-1)) + 1
    by_tag, rng = positions(items, benchmark.tags), np.random.default_rng(0)
    of_clusters: dict[str, list[sparse.csr_array]] = {}  # metric -> weighted sums and total weights, [G, C]
    for metric in benchmark.metrics:
        values_N = outcomes[metric.outcome]
        index_M, groups_M = metric.members(~np.isnan(values_N), by_tag)
        if len(index_M):
            shape, places = (groups_M[-1] + 1, clusters), (groups_M, cluster_N[index_M])
            weights_M = metric.weights(items, index_M)
            terms = weights_M * values_N[index_M], weights_M
            of_clusters[metric.name] = [sparse.csr_array((term_M, places), shape=shape) for term_M in terms]
    means: dict[str, list[np.ndarray]] = {name: [] for name in of_clusters}
    for start in range(0, resamples, CHUNK):
        number = min(CHUNK, resamples - start)
        drawn_RC = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=number)
        drawn_CR = np.ascontiguousarray(drawn_RC.T, float)
        for name, (sums_GC, totals_GC) in of_clusters.items():
            means[name].append(mean_of_groups(sums_GC @ drawn_CR, totals_GC @ drawn_CR))
    bounds = {}
    for name, parts in means.items():
        low, high = np.nanpercentile(np.concatenate(parts), (2.5, 97.5))
        bounds[name] = (float(low), float(high))
    return bounds
