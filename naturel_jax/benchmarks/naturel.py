"""NatuRel's test split: triplets that training images also show."""

from pathlib import Path

from naturel_jax.benchmarks import naturel_pairs
from naturel_jax.benchmarks.benchmark import Benchmark

SOURCE = naturel_pairs.SOURCE


def read(folder: Path) -> Benchmark:
    """From a prepared TFDS folder, ``.../naturel/<config>/<version>``."""
    return naturel_pairs.read(folder, "test", "naturel")
