"""BiVLC: SugarCrepe's captions with a generated image for each negative (Miranda et al., arXiv 2406.09952)."""

from pathlib import Path

from naturel_jax.benchmarks import coco, hub_pairs
from naturel_jax.benchmarks.benchmark import Benchmark, HubFiles, Origin, Source

_PAPER = "https://arxiv.org/abs/2406.09952"
SOURCE = Source(
    f"MIT; {coco.LICENCE}",
    "https://huggingface.co/datasets/imirandam/BiVLC",
    "bivlc/*.parquet",
    hub=HubFiles("imirandam/BiVLC", "data/*.parquet", "bivlc"),
    origins=(Origin("COCO (val2017)", _PAPER, coco.VAL_2017), Origin("generated images", _PAPER)),
)


def read(folder: Path) -> Benchmark:
    """From ``bivlc/*.parquet``."""
    images, captions = ("image", "negative_image"), ("caption", "negative_caption")
    return hub_pairs.read(folder, "bivlc", images, captions, ("type", "subtype"), published=2_933)
