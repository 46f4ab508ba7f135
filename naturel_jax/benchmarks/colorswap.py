"""ColorSwap: the colours of two objects swapped (Burapacheep et al., arXiv 2402.04492)."""

from pathlib import Path

from naturel_jax.benchmarks import hub_pairs
from naturel_jax.benchmarks.benchmark import Benchmark, HubFiles, Origin, Source

SOURCE = Source(
    "MIT",
    "https://huggingface.co/datasets/stanfordnlp/colorswap",
    "colorswap/*.parquet (the test split)",
    hub=HubFiles("stanfordnlp/colorswap", "data/test*.parquet", "colorswap"),
    origins=(Origin("generated images", "https://arxiv.org/abs/2402.04492"),),
)


def read(folder: Path) -> Benchmark:
    """From ``colorswap/test*.parquet``."""
    images, captions = ("image_1", "image_2"), ("caption_1", "caption_2")
    return hub_pairs.read(folder, "colorswap", images, captions, ("image_source", "caption_source"), published=300)
