"""NegRefCOCOg: which of two crops of a COCO photo a phrase with a negation means (Park et al., ICCV 2025,
arXiv 2501.10913).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Box, Item, Metric, Origin, Overlap, Source, Verified
from naturel_jax.benchmarks.files import (
    NUMBER,
    BenchmarkError,
    Fields,
    Folder,
    Record,
    crop,
    load_json,
    numbered,
    read_items,
    require_strings,
)

FILE = "negrefcocog/NegRefCOCOg.json"
FIELDS: Fields = {"image": str, "phrase": str, "ref_bbox": list, "bbox_list": list}
_FILES = "https://raw.githubusercontent.com/parkquasar/NegationCLIP/6f858ee490d5c17d54cbc1862dfd44f74f36324d"


def read(folder: Path) -> Benchmark:
    """Reads ``FILE`` and ``coco/train2014/``. Boxes are (x, y, width, height)."""
    images = Folder(folder / "coco" / "train2014")

    def item(key: str, row: Record) -> Item:
        if row["ref_bbox"] not in row["bbox_list"] or len(row["bbox_list"]) < 2:
            raise BenchmarkError(f"field 'bbox_list' is {row['bbox_list']!r:.80}, expected ref_bbox and others")
        answer = row["bbox_list"].index(row["ref_bbox"])
        crops = rules.true_first([images.image(row["image"], _box(box)) for box in row["bbox_list"]], answer)
        return Item(key, crops, (row["phrase"],), {"answer": str(answer)})

    problems: list[str] = []
    rows = numbered(load_json(folder / FILE, list))
    items = read_items("NegRefCOCOg.json", rows, FIELDS, item, problems)
    metrics = (Metric("negrefcocog/accuracy", "right"),)
    return Benchmark("negrefcocog", items, rules.first_of_many, metrics, 440, problems, chance=rules.FIRST)


def _box(sides: Sequence[Any]) -> Box:
    if not (isinstance(sides, list) and len(sides) == 4 and all(isinstance(side, NUMBER) for side in sides)):
        raise BenchmarkError(f"box {sides!r:.80}, expected x, y, width and height")
    return crop(*sides)


def _image_urls(folder: Path) -> dict[str, str]:
    rows = require_strings(folder / FILE, load_json(folder / FILE, list), "image")
    return coco.urls("train2014", (row["image"] for row in rows))


SOURCE = Source(
    f"MIT; {coco.LICENCE}",
    "https://github.com/parkquasar/NegationCLIP",
    f"{FILE}, coco/train2014/",
    {FILE: f"{_FILES}/NegRefCOCOg/NegRefCOCOg.json"},
    images=_image_urls,
    origins=(
        Origin(
            "COCO (train2014)",
            "https://arxiv.org/abs/2501.10913",
            (
                Overlap("COCO (train2014, Karpathy train)", "the same images"),
                Overlap("COCO (train2017)", "has all images of train2014"),
                coco.IN_VISUAL_GENOME,
            ),
        ),
    ),
    verified=Verified("e3519e02c26aa3d507e7cb32f4e202375bc8860b5cb7cb4c34ad436cf063031f", 440, "2026-11-29"),
)
