"""Benchmarks with mutated files: every item that is read can be scored, and every other record is reported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks import order, registry
from tests.helpers import benchmark_files as files
from tests.helpers.fuzzing import every_count, fuzz

MAKERS: dict[str, Callable[[Path], object]] = {
    "winoground": files.winoground,
    "vg_relation": files.visual_genome,
    "vg_attribution": files.visual_genome,
    "sugarcrepe": files.sugarcrepe,
    "coco_order": lambda root: files.karpathy(root, "coco/coco_karpathy_test.json", "val2014"),
    "flickr30k_order": lambda root: files.karpathy(root, "flickr30k/flickr30k_test.json", "flickr30k-images"),
    "coco_retrieval": lambda root: files.karpathy(root, "coco/coco_karpathy_test.json", "val2014"),
    "flickr30k_retrieval": lambda root: files.karpathy(root, "flickr30k/flickr30k_test.json", "flickr30k-images"),
    "whatsup": files.whatsup,
    "sugarcrepe_pp": files.sugarcrepe_pp,
    "bivlc": lambda root: files.hub_pairs(
        root, "bivlc", ("image", "negative_image", "caption", "negative_caption", "type", "subtype")
    ),
    "colorswap": lambda root: files.hub_pairs(
        root, "colorswap", ("image_1", "image_2", "caption_1", "caption_2", "image_source", "caption_source")
    ),
    "eqben": files.eqben,
    "valse": files.valse,
    "vsr": files.vsr,
    "zeroshot": files.zeroshot,
}


def use(name: str, root: Path) -> None:
    """Reads, reads every image (which may fail with OSError or ValueError), and scores."""
    benchmark = registry.read([name], files=root)[0]
    for item in benchmark.items:
        for image in item.images:
            try:
                assert isinstance(image.read(), bytes)
            except (OSError, ValueError):
                continue
        for caption in item.captions:
            "".join(caption).encode()
    if benchmark.items:
        rows = [len(item.images) + len(item.captions) * item.caption_rows for item in benchmark.items]
        cosines = [np.zeros((n, len(item.captions))) for n, item in zip(rows, benchmark.items, strict=True)]
        assert all(0 <= score.value <= 1 for score in benchmark.score(benchmark.items, cosines).values())
    assert all("\n" not in problem for problem in benchmark.problems)


def test_every_benchmark_of_files_is_fuzzed():
    assert MAKERS.keys() == {name for name in registry.BENCHMARKS if not registry.reads_dataset(name)}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # of a header that has become one of Python 2
@every_count
@pytest.mark.parametrize("name", MAKERS)
def test_benchmark(tmp_path, monkeypatch, name, count):
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(word, "NN") for word in t.split()] for t in texts])
    MAKERS[name](tmp_path)
    paths = [path for path in sorted(tmp_path.rglob("*.*")) if path.suffix not in (".png", ".jpg")]
    use(name, tmp_path)
    fuzz(paths, lambda: use(name, tmp_path), count)
