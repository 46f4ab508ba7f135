"""SugarCrepe: a COCO image, its caption and a fluent hard negative (Hsieh et al., arXiv 2306.14610)."""

from pathlib import Path

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric
from naturel_jax.benchmarks.files import BenchmarkError, Folder, load_json, records

FIELDS = {"filename": str, "caption": str, "negative_caption": str}
SUBSETS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")


def read(folder: Path) -> Benchmark:
    """From the seven ``sugarcrepe/<subset>.json`` and ``coco/val2017/``. A group (replace, swap, add) pools the items
    of its subsets.
    """
    images, problems, items = Folder(folder / "coco" / "val2017"), [], []
    for subset in SUBSETS:
        rows = load_json(folder / "sugarcrepe" / f"{subset}.json", dict)
        for key, row in records(f"{subset}.json", rows.items(), FIELDS, problems):
            tags = {"subset": subset, "group": subset.split("_")[0]}
            try:
                image = images.image(row["filename"])
            except BenchmarkError as error:
                problems.append(f"{subset}.json record {key}: {error}")
                continue
            items.append(Item(f"{subset}/{key}", (image,), (row["caption"], row["negative_caption"]), tags))
    metrics = tuple(Metric(f"sugarcrepe/{s}", "right", where=("subset", s)) for s in SUBSETS)
    metrics += tuple(Metric(f"sugarcrepe/{g}", "right", where=("group", g)) for g in ("replace", "swap", "add"))
    return Benchmark(
        "sugarcrepe", tuple(items), rules.pair, metrics, published=7_511, problems=tuple(problems), true_captions=1
    )
