"""SugarCrepe++: two captions with the same meaning and one with another, with and without the image (Dumpala et al.,
arXiv 2406.11171).
"""

from pathlib import Path

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, HubFiles, Item, Metric, Origin, Source, Verified
from naturel_jax.benchmarks.files import Fields, Folder, Record, load_json, read_items

SUBSETS = ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel")
FIELDS: Fields = {"id": (int, str), "filename": str, "caption": str, "caption2": str, "negative_caption": str}


def read(folder: Path) -> Benchmark:
    """Reads the five ``sugarcrepe_pp/<subset>.json`` and ``coco/val2017/``."""
    images = Folder(folder / "coco" / "val2017")
    problems: list[str] = []
    items = [item for subset in SUBSETS for item in _items(_path(folder, subset), subset, images, problems)]
    metrics = tuple(
        Metric(f"sugarcrepe_pp/{task}/{subset}", task, where=("subset", subset))
        for task in ("image_to_text", "text_only")
        for subset in SUBSETS
    )
    return Benchmark(
        "sugarcrepe_pp", items, rules.wordings, metrics, 4_757, problems, true_captions=2, chance=rules.WORDINGS
    )


def _items(path: Path, subset: str, images: Folder, problems: list[str]) -> list[Item]:
    def item(key: str, row: Record) -> Item:
        captions = (row["caption"], row["caption2"], row["negative_caption"])
        image = images.image(row["filename"])
        return Item(f"{subset}/{key}", (image,), captions, {"subset": subset}, caption_rows=True)

    rows = enumerate(load_json(path, list))
    keyed = ((str(row.get("id", n) if isinstance(row, dict) else n), row) for n, row in rows)
    return read_items(path.name, keyed, FIELDS, item, problems)


def _path(folder: Path, subset: str) -> Path:
    return folder / "sugarcrepe_pp" / f"{subset}.json"


SOURCE = Source(
    f"CC BY 4.0; {coco.LICENCE}",
    "https://huggingface.co/datasets/Aman-J/SugarCrepe_pp",
    "sugarcrepe_pp/{swap_obj,swap_att,replace_obj,replace_att,replace_rel}.json, coco/val2017/",
    images=lambda folder: coco.val2017_images((_path(folder, subset) for subset in SUBSETS), list),
    hub=HubFiles("Aman-J/SugarCrepe_pp", "data/*.json", "sugarcrepe_pp"),
    origins=(Origin("COCO (val2017)", "https://arxiv.org/abs/2406.11171", coco.VAL_2017),),
    verified=Verified("27ff4889677e884351cf04bcee1f737e4c9eb49efbf4a7858ac9cfb7fcce0492", 4_757, "2026-11-29"),
)
