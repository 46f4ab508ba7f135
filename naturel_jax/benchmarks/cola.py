"""Cola: two photos of Visual Genome whose captions have objects and attributes in common (Ray et al., NeurIPS 2023,
arXiv 2305.03689). The multi-object setting; that of single objects is scored by mean average precision over labels.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Origin, Source, Verified
from naturel_jax.benchmarks.files import Folder, Record, load_json, numbered, read_items

FILE = "cola/COLA_multiobjects_matching_benchmark.json"
FIELDS = dict.fromkeys(("image_0", "caption_0", "image_1", "caption_1"), str)
_IMAGES = "https://cs-people.bu.edu/array/data/vg_gqa_images/"
_FILES = "https://raw.githubusercontent.com/arijitray1993/COLA/1fa52fba9cff4e6ffb7bfcf3550838748347273b/data"


def read(folder: Path) -> Benchmark:
    """Reads ``FILE`` and ``cola/images/``. The official score is ``cola/image``: each caption prefers its own image."""
    images = Folder(folder / "cola" / "images", "visual_genome")

    def item(key: str, row: Record) -> Item:
        names = (PurePosixPath(row[f"image_{k}"]).name for k in (0, 1))
        return Item(key, tuple(map(images.image, names)), (row["caption_0"], row["caption_1"]))

    problems: list[str] = []
    rows = numbered(map(_named, load_json(folder / FILE, list)))
    items = read_items(PurePosixPath(FILE).name, rows, FIELDS, item, problems)
    metrics = tuple(Metric(f"cola/{score}", score) for score in rules.TWO_BY_TWO)
    return Benchmark("cola", tuple(items), rules.two_by_two, metrics, 210, tuple(problems), chance=rules.GROUPS)


def _named(row: Any) -> Any:
    """[address of an image, caption, another's, its caption] under the names of ``FIELDS``."""
    return dict(zip(FIELDS, row, strict=True)) if isinstance(row, list) and len(row) == len(FIELDS) else row


def _image_urls(folder: Path) -> dict[str, str]:
    """Path -> URL of the images on the authors' server; other addresses are not followed."""
    rows = filter(lambda row: isinstance(row, dict), map(_named, load_json(folder / FILE, list)))
    links = {str(row[f"image_{k}"]) for row in rows for k in (0, 1)}
    return {f"cola/images/{PurePosixPath(link).name}": link for link in sorted(links) if link.startswith(_IMAGES)}


SOURCE = Source(
    "MIT; Visual Genome images CC BY 4.0",
    "https://github.com/arijitray1993/COLA",
    f"{FILE}, cola/images/",
    {FILE: f"{_FILES}/{PurePosixPath(FILE).name}"},
    images=_image_urls,
    origins=(Origin("Visual Genome", "https://arxiv.org/abs/2305.03689", coco.VISUAL_GENOME),),
    verified=Verified("e2846dcc958e3277813ca572bce53db96fd5dd65caaa57ccd20dc1ce51d73ec0", 210, "2026-11-29"),
)
