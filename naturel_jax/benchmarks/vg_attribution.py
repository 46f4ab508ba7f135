"""ARO's VG-Attribution: a crop, and two captions with the attributes swapped (Yuksekgonul et al., arXiv 2210.01936)."""

from pathlib import Path

from naturel_jax.benchmarks import aro, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Metric, Source, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Record

SOURCE = Source(aro.LICENCE, aro.WHERE, "aro/visual_genome_attribution.json, aro/images/", origins=aro.ORIGINS)
MIN_COUNT = 25  # ARO averages over attribute pairs with at least this many items


def read(folder: Path) -> Benchmark:
    """Reads ``aro/visual_genome_attribution.json`` and ``aro/images/``. The macro mean is over ordered attribute pairs
    with at least 25 items.
    """
    problems: list[str] = []
    items = aro.read(folder, "visual_genome_attribution.json", {"attributes": list}, _tags, problems)
    metrics = (
        Metric("vg_attribution/macro", "right", macro="attributes", min_count=MIN_COUNT),
        Metric("vg_attribution/micro", "right"),
        *by_value("vg_attribution/attributes", "right", "attributes", items),
    )
    return Benchmark("vg_attribution", items, rules.pair, metrics, 28_748, problems, true_captions=1, chance=rules.PAIR)


def _tags(row: Record) -> dict[str, str]:
    if len(row["attributes"]) != 2 or not all(isinstance(name, str) for name in row["attributes"]):
        raise BenchmarkError(f"field 'attributes' is {row['attributes']!r:.80}, expected two strings")
    return {"attributes": "_".join(row["attributes"])}
