"""ARO's Flickr30k-Order: a Flickr30k caption against four shuffles of its words (Yuksekgonul et al., arXiv
2210.01936).
"""

from pathlib import Path

from naturel_jax.benchmarks import karpathy, order
from naturel_jax.benchmarks.benchmark import Benchmark

SOURCE = karpathy.FLICKR30K


def read(folder: Path) -> Benchmark:
    """From ``flickr30k/flickr30k_test.json`` (5,000 captions of 1,000 images) and ``flickr30k/flickr30k-images/``."""
    return order.read(folder, karpathy.FLICKR30K_FILE, "flickr30k_order", published=5_000)
