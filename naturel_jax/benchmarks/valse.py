"""VALSE: a caption against a foil of one linguistic phenomenon (Parcalabescu et al., ACL 2022, arXiv 2112.07566)."""

import re
from pathlib import Path

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Origin, Overlap, Source, Verified
from naturel_jax.benchmarks.files import (
    BenchmarkError,
    Folder,
    Record,
    load_json,
    read_items,
    require_strings,
    safe_name,
)

FIELDS = {"image_file": str, "caption": str, "foil": str, "mturk": dict}
COCO = "coco"
IMAGES = {  # file of ``valse/data`` -> folder of its images; VALSE refers to COCO's by file name
    "existence": "valse/images/visual7w",
    "plurals": COCO,
    "counting-hard": "valse/images/visual7w",
    "counting-small-quant": "valse/images/visual7w",
    "counting-adversarial": "valse/images/visual7w",
    "relations": COCO,
    "action-replacement": "valse/images/swig",
    "actant-swap": "valse/images/swig",
    "coreference-standard": COCO,
    "coreference-hard": "valse/images/visdial",
    "foil-it": COCO,
}
MIN_VOTES = 2  # of three annotators must say that the caption, not the foil, describes the image
_FILES = "https://raw.githubusercontent.com/Heidelberg-NLP/VALSE/main/data"


def image_path(phenomenon: str, image_file: str) -> str:
    """The path of an image: ``COCO_val2014_000000165831.jpg`` in ``coco/val2014/``, ``000000462576.jpg`` in
    ``coco/val2017/``; images of other datasets in folders of their own.
    """
    if IMAGES[phenomenon] != COCO:
        return f"{IMAGES[phenomenon]}/{image_file}"
    named = re.match(r"COCO_((?:train|val)2014)_", image_file)
    return f"{COCO}/{named[1] if named else 'val2017'}/{image_file}"


def read(folder: Path) -> Benchmark:
    """Reads ``valse/data/<phenomenon>.json``, ``valse/images/`` and ``coco/``, the validated items only."""
    images = Folder(folder)
    problems: list[str] = []
    items = [item for name in IMAGES for item in _items(_path(folder, name), name, images, problems)]
    metrics = (
        Metric("valse/macro", "right", macro="phenomenon"),
        *(Metric(f"valse/{name}", "right", where=("phenomenon", name)) for name in IMAGES),
    )
    return Benchmark("valse", items, rules.pair, metrics, 7_702, problems, true_captions=1, chance=rules.PAIR)


def _items(path: Path, phenomenon: str, images: Folder, problems: list[str]) -> list[Item]:
    def item(key: str, row: Record) -> Item | None:
        votes = row["mturk"].get("caption")
        if not isinstance(votes, int):
            raise BenchmarkError(f"field 'mturk' is {row['mturk']!r:.80}, expected votes with the key 'caption'")
        if votes < MIN_VOTES:
            return None
        image = images.image(image_path(phenomenon, safe_name(row["image_file"])))
        return Item(f"{phenomenon}/{key}", (image,), (row["caption"], row["foil"]), {"phenomenon": phenomenon})

    return read_items(path.name, load_json(path, dict).items(), FIELDS, item, problems)


def _path(folder: Path, phenomenon: str) -> Path:
    return folder / "valse" / "data" / f"{phenomenon}.json"


def _images(folder: Path) -> dict[str, str]:
    """Path -> URL of the images on COCO's server; Visual7W, SWiG and VisDial have their own download pages."""
    files = {name: _path(folder, name) for name, images in IMAGES.items() if images == COCO}
    paths = (
        image_path(name, safe_name(row["image_file"]))
        for name, file in files.items()
        for row in require_strings(file, load_json(file, dict), "image_file")
    )
    return {path: f"{coco.SERVER}/{path.removeprefix('coco/')}" for path in sorted(set(paths))}


_PAPER = "https://arxiv.org/abs/2112.07566"
_OF_COCO = (Overlap("COCO", "the same images, of several splits"), coco.IN_VISUAL_GENOME)
SOURCE = Source(
    "MIT; images under the licences of their datasets",
    "https://github.com/Heidelberg-NLP/VALSE; images from Visual7W, SWiG, VisDial and COCO",
    "valse/data/*.json (eleven), valse/images/{visual7w,swig,visdial}/, coco/{val2017,val2014,train2014}/",
    {f"valse/data/{name}.json": f"{_FILES}/{name}.json" for name in IMAGES},
    images=_images,
    origins=(
        Origin("COCO", _PAPER, _OF_COCO),
        Origin("Visual7W, of Visual Genome", _PAPER, coco.VISUAL_GENOME),
        Origin("SWiG, VisDial", _PAPER),
    ),
    verified=Verified("30b7f9da84c29fdcb48b3842f1d7466d79c479198a4daa3fee458e4a784e8379", 7_702, "2026-11-29"),
)
