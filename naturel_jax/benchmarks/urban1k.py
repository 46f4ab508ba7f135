"""Urban1k: retrieval by captions of about a hundred words (Zhang et al., ECCV 2024, arXiv 2403.15378)."""

from pathlib import Path

from naturel_jax.benchmarks import coco, retrieval
from naturel_jax.benchmarks.benchmark import Benchmark, Origin, Source
from naturel_jax.benchmarks.files import BenchmarkError, Folder, not_found
from tfds_naturel.common.files import check_regular

SOURCE = Source(
    "Apache-2.0; Visual Genome images CC BY 4.0",
    "https://huggingface.co/datasets/BeichenZhang/Urban1k",
    "urban1k/caption/, urban1k/image/",
    origins=(Origin("Visual Genome", "https://arxiv.org/abs/2403.15378", coco.VISUAL_GENOME),),
)


def read(folder: Path) -> Benchmark:
    """Reads ``urban1k/caption/<name>.txt``, of which the first line counts, and ``urban1k/image/<name>.jpg``."""
    root = folder / "urban1k"
    images = Folder(root / "image")
    files = sorted(path for path in (root / "caption").glob("*.txt") if path.name.isprintable())
    if not files:
        raise not_found(root / "caption", "contains no *.txt")
    found, problems = [], []
    for path in files:
        try:
            check_regular(path)
            first = path.read_text(encoding="utf-8-sig").partition("\n")[0].strip()
            if not first:
                raise BenchmarkError("has no caption in its first line")
            found.append((path.stem, images.image(f"{path.stem}.jpg"), [first]))
        except (BenchmarkError, OSError, UnicodeDecodeError) as error:
            problems.append(f"caption/{path.name}: {error}")
    return retrieval.benchmark("urban1k", found, 1_000, problems)
