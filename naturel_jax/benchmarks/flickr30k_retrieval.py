"""Retrieval on Flickr30k's Karpathy test split: recall at 1, 5 and 10, in both directions."""

from pathlib import Path

from naturel_jax.benchmarks import karpathy, retrieval
from naturel_jax.benchmarks.benchmark import Benchmark

SOURCE = karpathy.FLICKR30K


def read(folder: Path) -> Benchmark:
    """From ``flickr30k/flickr30k_test.json`` (1,000 images) and ``flickr30k/flickr30k-images/``."""
    return retrieval.read(folder, karpathy.FLICKR30K_FILE, "flickr30k_retrieval", published=1_000)
