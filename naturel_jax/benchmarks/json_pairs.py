"""The benchmarks of two images and two captions in one JSON list: Cola (captions that have objects and attributes in
common; Ray et al., NeurIPS 2023, arXiv 2305.03689) and NaturalBench-Retrieval (photos and captions that models confuse;
Li et al., NeurIPS 2024, arXiv 2410.14669).

Cola: the multi-object setting; the single-object one is scored by mean average precision and is not read.
"""

import functools
from pathlib import Path, PurePosixPath
from typing import Any

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Entry, Item, Metric, Origin, Overlap, Source, Verified
from naturel_jax.benchmarks.files import Folder, Record, load_json, numbered, read_items, safe_name

FIELDS = dict.fromkeys(("image_0", "caption_0", "image_1", "caption_1"), str)
COLA_FILE = "cola/COLA_multiobjects_matching_benchmark.json"
COLA_IMAGES = "https://cs-people.bu.edu/array/data/vg_gqa_images/"
_COLA = "https://raw.githubusercontent.com/arijitray1993/COLA/1fa52fba9cff4e6ffb7bfcf3550838748347273b/data"


def read(folder: Path, name: str, file: str, collection: str = "", published: int | None = None) -> Benchmark:
    """Reads ``file``, whose records are objects with ``FIELDS`` or lists of them, and ``images/`` beside it.
    ``collection``: see ``Folder``.
    """
    path = folder / file
    images = Folder(path.parent / "images", collection)

    def item(key: str, row: Record) -> Item:
        names = [row[f"image_{k}"].removeprefix(COLA_IMAGES) for k in (0, 1)]
        return Item(key, tuple(map(images.image, names)), (row["caption_0"], row["caption_1"]))

    problems: list[str] = []
    items = read_items(path.name, numbered(map(_named, load_json(path, list))), FIELDS, item, problems)
    metrics = tuple(Metric(f"{name}/{score}", score) for score in rules.TWO_BY_TWO)
    return Benchmark(name, tuple(items), rules.two_by_two, metrics, published, tuple(problems), chance=rules.GROUPS)


def _named(row: Any) -> Any:
    return dict(zip(FIELDS, row, strict=True)) if isinstance(row, list) and len(row) == len(FIELDS) else row


def cola_images(folder: Path) -> dict[str, str]:
    """Path -> URL of Cola's images on the authors' server; other addresses are not followed."""
    rows = [row for row in map(_named, load_json(folder / COLA_FILE, list)) if isinstance(row, dict)]
    links = {str(row.get(f"image_{k}")) for row in rows for k in (0, 1)}
    names = {link: link.removeprefix(COLA_IMAGES) for link in sorted(links) if link.startswith(COLA_IMAGES)}
    return {f"cola/images/{safe_name(name)}": link for link, name in names.items()}


COLA = Entry(
    Source(
        "MIT; Visual Genome images CC BY 4.0",
        "https://github.com/arijitray1993/COLA",
        f"{COLA_FILE}, cola/images/",
        {COLA_FILE: f"{_COLA}/{PurePosixPath(COLA_FILE).name}"},
        images=cola_images,
        origins=(Origin("Visual Genome", "https://arxiv.org/abs/2305.03689", coco.VISUAL_GENOME),),
        verified=Verified("e2846dcc958e3277813ca572bce53db96fd5dd65caaa57ccd20dc1ce51d73ec0", 210, "2026-11-29"),
    ),
    functools.partial(read, name="cola", file=COLA_FILE, collection="visual_genome", published=210),
)
NATURALBENCH = Entry(
    Source(
        "no licence stated for the captions; images under the licences of their datasets",
        "https://huggingface.co/datasets/BaiqiL/NaturalBench (NaturalBench-Retrieval.zip)",
        "naturalbench_retrieval/metadata.json, naturalbench_retrieval/images/",
        origins=(
            Origin(
                "Flickr30k, DOCCI",
                "https://arxiv.org/abs/2410.14669",
                (Overlap("Flickr30k", "the same images; the split is not stated"),),
            ),
        ),
    ),
    functools.partial(read, name="naturalbench_retrieval", file="naturalbench_retrieval/metadata.json"),
)
