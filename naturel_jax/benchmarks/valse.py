"""VALSE: a caption against a foil of one linguistic phenomenon (Parcalabescu et al., ACL 2022, arXiv 2112.07566)."""

import re
from pathlib import Path

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric
from naturel_jax.benchmarks.files import BenchmarkError, Folder, load_json, records, safe_name

FIELDS = {"image_file": str, "caption": str, "foil": str, "mturk": dict}
COCO = "coco"
IMAGES = {  # file of ``valse/data`` -> folder of its images; VALSE names those of COCO by their files
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
MIN_VOTES = 2  # of three annotators who say that the caption, and not the foil, describes the image


def image_path(phenomenon: str, image_file: str) -> str:
    """Where an image lies: ``COCO_val2014_000000165831.jpg`` in ``coco/val2014/``, ``000000462576.jpg`` in
    ``coco/val2017/``; other datasets' in a folder of their own."""
    if IMAGES[phenomenon] != COCO:
        return f"{IMAGES[phenomenon]}/{image_file}"
    named = re.match(r"COCO_((?:train|val)2014)_", image_file)
    return f"{COCO}/{named[1] if named else 'val2017'}/{image_file}"


def read(folder: Path) -> Benchmark:
    """From ``valse/data/<phenomenon>.json``, ``valse/images/`` and ``coco/``, the validated items only."""
    problems, items, pictures = [], [], Folder(folder)
    for phenomenon in IMAGES:
        file = f"{phenomenon}.json"
        rows = load_json(folder / "valse" / "data" / file, dict)
        for key, row in records(file, rows.items(), FIELDS, problems):
            try:
                votes = row["mturk"].get("caption")
                if not isinstance(votes, int):
                    raise BenchmarkError(
                        f"field 'mturk' is {row['mturk']!r:.80}, expected votes with the key 'caption'"
                    )
                if votes < MIN_VOTES:
                    continue
                image = pictures.image(image_path(phenomenon, safe_name(row["image_file"])))
            except BenchmarkError as error:
                problems.append(f"{file} record {key}: {error}")
                continue
            tags = {"phenomenon": phenomenon}
            items.append(Item(f"{phenomenon}/{key}", (image,), (row["caption"], row["foil"]), tags))
    metrics = [Metric("valse/macro", "right", macro="phenomenon")]
    metrics += [Metric(f"valse/{name}", "right", where=("phenomenon", name)) for name in IMAGES]
    return Benchmark(
        "valse", tuple(items), rules.pair, tuple(metrics), published=7_702, problems=tuple(problems), true_captions=1
    )
