"""ARO's COCO-Order: a COCO caption against four shuffles of its words (Yuksekgonul et al., arXiv 2210.01936)."""

from pathlib import Path

from naturel_jax.benchmarks import karpathy, order
from naturel_jax.benchmarks.benchmark import Benchmark

SOURCE = karpathy.COCO


def read(folder: Path) -> Benchmark:
    """From ``coco/coco_karpathy_test.json`` (25,010 captions of 5,000 images) and ``coco/val2014/``."""
    return order.read(folder, karpathy.COCO_FILE, "coco_order", published=25_010)
