"""VSR: is this spatial statement true of the image? (Liu et al., TACL 2023, arXiv 2205.00363)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import (
    Benchmark,
    Item,
    Metric,
    Origin,
    Outcomes,
    Overlap,
    Source,
    Verified,
    by_value,
)
from naturel_jax.benchmarks.files import (
    BenchmarkError,
    Folder,
    Record,
    load_json_lines,
    numbered,
    read_items,
    require_strings,
    safe_name,
)

SPLITS = ("dev", "test")
FIELDS = {"image": str, "caption": str, "label": int, "relation": str}
_REPOSITORY = "https://raw.githubusercontent.com/cambridgeltl/visual-spatial-reasoning"
_FILES = f"{_REPOSITORY}/b27a0af0ee1462d2b6b92c8c83e869d9254a241a/data/splits/random"


def read(folder: Path) -> Benchmark:
    """Reads ``vsr/dev.jsonl``, ``vsr/test.jsonl`` (of either published split) and ``vsr/images/``.

    A statement is predicted to be true if its cosine is above a threshold: the most accurate one on the dev split, so
    the test split stays unseen.
    """
    images = Folder(folder / "vsr" / "images")
    problems: list[str] = []
    dev, test = (_items(_path(folder, split), split, images, problems) for split in SPLITS)
    metrics = (Metric("vsr/accuracy", "right"), *by_value("vsr/relation", "right", "relation", test))
    return Benchmark("vsr", (*dev, *test), outcomes, metrics, problems=problems, chance=rules.PAIR)


def _items(path: Path, split: str, images: Folder, problems: list[str]) -> list[Item]:
    def item(key: str, row: Record) -> Item:
        if row["label"] not in (0, 1):
            raise BenchmarkError(f"field 'label' is {row['label']}, expected 0 or 1")
        tags = {"split": split, "label": str(row["label"]), "relation": row["relation"]}
        return Item(f"{split}/{key}", (images.image(row["image"]),), (row["caption"],), tags)

    return read_items(path.name, numbered(load_json_lines(path)), FIELDS, item, problems)


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Right or wrong for items of the test split, NaN for the others; NaN for all without a dev split."""
    s = np.array([float(matrix[0, 0]) for matrix in cosines])
    label = np.array([item.tags["label"] == "1" for item in items])
    dev = np.array([item.tags["split"] == "dev" for item in items])
    right = ((s > best_threshold(s[dev], label[dev])) == label).astype(float)
    return {"right": np.where(dev | ~dev.any(), np.nan, right)}


def best_threshold(s: np.ndarray, label: np.ndarray) -> float:
    """The midpoint between neighbouring values of ``s`` that splits true from false with the fewest errors; the lowest
    if several do.
    """
    if not len(s):
        return 0.0
    values = np.unique(s)
    between = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    right = [np.mean((s > threshold) == label) for threshold in between]
    return float(between[int(np.argmax(right))])


def _path(folder: Path, split: str) -> Path:
    return folder / "vsr" / f"{split}.jsonl"


def _images(folder: Path) -> dict[str, str]:
    """VSR's rows link to COCO's server; other URLs are not followed."""
    paths = [_path(folder, split) for split in SPLITS]
    rows = (row for path in paths for row in require_strings(path, list(load_json_lines(path)), "image", "image_link"))
    links = {safe_name(row["image"]): row["image_link"] for row in rows}
    return {f"vsr/images/{name}": link for name, link in links.items() if link.startswith(f"{coco.SERVER}/")}


SOURCE = Source(
    f"Apache-2.0; {coco.LICENCE}",
    "https://github.com/cambridgeltl/visual-spatial-reasoning",
    "vsr/dev.jsonl, vsr/test.jsonl, vsr/images/",
    {f"vsr/{split}.jsonl": f"{_FILES}/{split}.jsonl" for split in SPLITS},
    images=_images,
    origins=(
        Origin(
            "COCO (train2017 and val2017)",
            "https://arxiv.org/abs/2205.00363",
            (Overlap("COCO", "the same images, also of training splits"), coco.IN_VISUAL_GENOME),
        ),
    ),
    verified=Verified(
        "c0838f8c3c09c65f5e6d5ecc0f8c3ee713e7c0c8471c7ea47b7781799e450c47",
        3_292,
        "2026-11-29",
        "its files; no official code scores cosines",
    ),
)
