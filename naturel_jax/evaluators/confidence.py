"""Bootstrap confidence intervals of a benchmark's metrics."""

from collections.abc import Sequence

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes, group_means, positions

Intervals = dict[str, tuple[float, float]]  # metric name -> (low, high)

CHUNK = 100  # resamples at a time, which bounds the memory


def intervals(benchmark: Benchmark, items: Sequence[Item], outcomes: Outcomes, *, resamples: int = 1000) -> Intervals:
    """Metric name -> (2.5th, 97.5th percentile) over resamples of the *images*: items that share one are resampled
    together, since they are not independent (cluster bootstrap; Davison and Hinkley, 1997, section 3.8).
    """
    _, cluster_N = np.unique([item.images[0].key if item.images else item.id for item in items], return_inverse=True)
    clusters = int(cluster_N.max(initial=-1)) + 1
    by_tag, rng = positions(items, benchmark.tags), np.random.default_rng(0)
    members = {}
    for metric in benchmark.metrics:
        index_M, groups_M = metric.members(~np.isnan(outcomes[metric.outcome]), by_tag)
        if len(index_M):
            weights_M = metric.weights(items, index_M)
            members[metric.name] = (outcomes[metric.outcome][index_M], groups_M, cluster_N[index_M], weights_M)
    means: dict[str, list[np.ndarray]] = {name: [] for name in members}
    for start in range(0, resamples, CHUNK):
        number = min(CHUNK, resamples - start)
        weights_RC = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=number).astype(float)
        for name, (values_M, groups_M, cluster_M, weights_M) in members.items():
            means[name].append(group_means(values_M, groups_M, weights_RC[:, cluster_M] * weights_M))
    bounds = {}
    for name, parts in means.items():
        low, high = np.nanpercentile(np.concatenate(parts), (2.5, 97.5))
        bounds[name] = (float(low), float(high))
    return bounds
