"""SugarCrepe: a COCO image, its caption and a fluent hard negative (Hsieh et al., arXiv 2306.14610)."""

from pathlib import Path

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Origin, Source, Verified
from naturel_jax.benchmarks.files import Folder, Record, load_json, read_items

SUBSETS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
GROUPS = ("replace", "swap", "add")
FIELDS = {"filename": str, "caption": str, "negative_caption": str}
_FILES = "https://raw.githubusercontent.com/RAIVNLab/sugar-crepe/main/data"


def read(folder: Path) -> Benchmark:
    """Reads the seven ``sugarcrepe/<subset>.json`` and ``coco/val2017/``. A group (replace, swap, add) pools the items
    of its subsets.
    """
    images = Folder(folder / "coco" / "val2017")
    problems: list[str] = []
    items = [item for subset in SUBSETS for item in _items(_path(folder, subset), subset, images, problems)]
    metrics = [Metric(f"sugarcrepe/{subset}", "right", where=("subset", subset)) for subset in SUBSETS]
    metrics += [Metric(f"sugarcrepe/{group}", "right", where=("group", group)) for group in GROUPS]
    return Benchmark("sugarcrepe", items, rules.pair, metrics, 7_511, problems, true_captions=1, chance=rules.PAIR)


def _items(path: Path, subset: str, images: Folder, problems: list[str]) -> list[Item]:
    tags = {"subset": subset, "group": subset.split("_")[0]}

    def item(key: str, row: Record) -> Item:
        captions = (row["caption"], row["negative_caption"])
        return Item(f"{subset}/{key}", (images.image(row["filename"]),), captions, tags)

    return read_items(path.name, load_json(path, dict).items(), FIELDS, item, problems)


def _path(folder: Path, subset: str) -> Path:
    return folder / "sugarcrepe" / f"{subset}.json"


SOURCE = Source(
    f"MIT; {coco.LICENCE}",
    "https://github.com/RAIVNLab/sugar-crepe",
    "sugarcrepe/{replace,swap,add}_*.json (seven), coco/val2017/",
    {f"sugarcrepe/{subset}.json": f"{_FILES}/{subset}.json" for subset in SUBSETS},
    images=lambda folder: coco.val2017_images((_path(folder, subset) for subset in SUBSETS), dict),
    origins=(Origin("COCO (val2017)", "https://arxiv.org/abs/2306.14610", coco.VAL_2017),),
    verified=Verified("44b1d90a2e64c317210d51abfccf022928c9b395ca8ddc91381f18d07b0e2105", 7_511, "2026-11-29"),
)
