"""Code shared by ARO's VG-Relation and VG-Attribution: a crop and two captions with the roles or attributes swapped
(Yuksekgonul et al., arXiv 2210.01936).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from naturel_jax.benchmarks import coco
from naturel_jax.benchmarks.benchmark import Item, Origin
from naturel_jax.benchmarks.files import NUMBER, Fields, Folder, Record, crop, load_json, numbered, read_items

LICENCE = "annotations MIT; Visual Genome images CC BY 4.0"
WHERE = "https://github.com/mertyg/vision-language-models-are-bows (see its Google Drive links)"
ORIGINS = (Origin("Visual Genome", "https://arxiv.org/abs/2210.01936", coco.VISUAL_GENOME),)
FIELDS: Fields = {
    "image_path": str,
    "true_caption": str,
    "false_caption": str,
    **dict.fromkeys(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), NUMBER),
}


def read(
    folder: Path, file: str, fields: Fields, tags: Callable[[Record], Mapping[str, str]], problems: list[str]
) -> list[Item]:
    """The valid items of ``aro/<file>``; the others are reported in ``problems``. An item's id is its row number."""
    images = Folder(folder / "aro" / "images", "visual_genome")

    def item(key: str, row: Record) -> Item:
        image = images.image(row["image_path"], crop(*(row[f"bbox_{side}"] for side in "xywh")))
        return Item(key, (image,), (row["true_caption"], row["false_caption"]), tags(row))

    rows = numbered(load_json(folder / "aro" / file, list))
    return read_items(file, rows, {**FIELDS, **fields}, item, problems)
