"""VALSE: a caption against a foil of one linguistic phenomenon (Parcalabescu et al., ACL 2022, arXiv 2112.07566)."""

from pathlib import Path

from naturel_jax.evaluators import rules
from naturel_jax.evaluators.benchmark import Benchmark, Item, Metric
from naturel_jax.evaluators.files import BenchmarkError, Folder, load_json, records

FIELDS = {"image_file": str, "caption": str, "foil": str, "mturk": dict}
IMAGES = {  # file of ``valse/data`` -> folder of ``valse/images``
    "existence": "visual7w",
    "plurals": "plurals",
    "counting-adversarial": "visual7w",
    "counting-balanced": "visual7w",
    "counting-small-quant": "visual7w",
    "relations": "relations",
    "action-replacement": "actions",
    "actant-swap": "actions",
    "coreference-standard": "coref",
    "coreference-hard": "coref_hard",
    "foil-it": "foil_it",
}
MIN_VOTES = 2  # of three annotators who say that the caption, and not the foil, describes the image


def read(folder: Path) -> Benchmark:
    """From ``valse/data/<phenomenon>.json`` and ``valse/images/``, the validated items only."""
    problems, items = [], []
    for phenomenon, images in IMAGES.items():
        file, pictures = f"{phenomenon}.json", Folder(folder / "valse" / "images" / images)
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
                image = pictures.image(row["image_file"])
            except BenchmarkError as error:
                problems.append(f"{file} record {key}: {error}")
                continue
            tags = {"phenomenon": phenomenon}
            items.append(Item(f"{phenomenon}/{key}", (image,), (row["caption"], row["foil"]), tags))
    metrics = [Metric("valse/macro", "right", macro="phenomenon")]
    metrics += [Metric(f"valse/{name}", "right", where=("phenomenon", name)) for name in IMAGES]
    return Benchmark("valse", tuple(items), rules.pair, tuple(metrics), problems=tuple(problems), true_captions=1)
