"""The Karpathy test splits of COCO and Flickr30k, as ARO and BLIP distribute them."""

from pathlib import Path

from naturel_jax.benchmarks import coco
from naturel_jax.benchmarks.benchmark import Image, Origin, Overlap, Source
from naturel_jax.benchmarks.files import (
    BenchmarkError,
    Folder,
    Record,
    load_json,
    numbered,
    read_items,
    require_strings,
    safe_name,
)

FILES = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
COCO_FILE = "coco/coco_karpathy_test.json"
FLICKR30K_FILE = "flickr30k/flickr30k_test.json"


def captioned_images(folder: Path, file: str, problems: list[str]) -> list[tuple[str, Image, list[str]]]:
    """(record number, image, captions) of each valid record of ``file``; image paths are relative to its folder."""
    path = folder / file
    images = Folder(path.parent)

    def captioned(key: str, row: Record) -> tuple[str, Image, list[str]]:
        if not row["caption"] or not all(isinstance(caption, str) for caption in row["caption"]):
            raise BenchmarkError(f"field 'caption' is {row['caption']!r:.80}, expected strings")
        return key, images.image(row["image"]), row["caption"]

    fields = {"image": str, "caption": list}
    return read_items(path.name, numbered(load_json(path, list)), fields, captioned, problems)


def coco_images(folder: Path, file: str = COCO_FILE) -> dict[str, str]:
    """Path -> URL of the images that a Karpathy split of COCO names."""
    path = folder / file
    names = sorted({safe_name(row["image"]) for row in require_strings(path, load_json(path, list), "image")})
    return {f"coco/{name}": f"{coco.SERVER}/{name}" for name in names}


_SPLITS = "https://arxiv.org/abs/1412.2306"
COCO = Source(
    f"COCO: annotations CC BY 4.0, {coco.LICENCE}",
    "https://cocodataset.org",
    f"{COCO_FILE}, coco/val2014/",
    {COCO_FILE: f"{FILES}/coco_karpathy_test.json"},
    images=coco_images,
    origins=(Origin("COCO (Karpathy test, of val2014)", _SPLITS, coco.KARPATHY_TEST),),
)
FLICKR30K = Source(
    "Flickr30k: research only, on request",
    "https://shannon.cs.illinois.edu/DenotationGraph",
    f"{FLICKR30K_FILE}, flickr30k/flickr30k-images/",
    {FLICKR30K_FILE: f"{FILES}/flickr30k_test.json"},
    origins=(
        Origin(
            "Flickr30k (Karpathy test)",
            _SPLITS,
            (Overlap("COCO, Visual Genome, Open Images", "are photos from Flickr too; no count is known"),),
        ),
    ),
)
