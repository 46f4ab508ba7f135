"""Benchmarks with mutated files: every item that is read can be scored, and every other record is reported."""

from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks import order, registry
from tests.helpers.benchmark_files import MAKERS
from tests.helpers.fuzzing import every_count, fuzz


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
