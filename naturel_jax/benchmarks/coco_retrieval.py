"""Retrieval on COCO's Karpathy test split: recall at 1, 5 and 10, in both directions."""

from pathlib import Path

from naturel_jax.benchmarks import karpathy, retrieval
from naturel_jax.benchmarks.benchmark import Benchmark

SOURCE = karpathy.COCO


def read(folder: Path) -> Benchmark:
    """From ``coco/coco_karpathy_test.json`` (5,000 images) and ``coco/val2014/``."""
    return retrieval.read(folder, karpathy.COCO_FILE, "coco_retrieval", published=5_000)
