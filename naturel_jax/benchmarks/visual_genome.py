"""ARO's VG-Relation and VG-Attribution: a crop and two captions with the roles or attributes swapped (Yuksekgonul et
al., arXiv 2210.01936).
"""

from collections.abc import Callable
from pathlib import Path

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Folder, Number, load_json, records

FIELDS = {
    "image_path": str,
    "true_caption": str,
    "false_caption": str,
    **dict.fromkeys(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), Number),
}
MIN_ATTRIBUTE_PAIRS = 25  # ARO averages over attribute pairs with at least as many cases


def read_relation(folder: Path) -> Benchmark:
    """From ``aro/visual_genome_relation.json``, ``aro/vgr_excluded_relations.json`` and ``aro/images/``.

    The macro mean, and the micro mean beside it, leave out the relations that ARO excludes as symmetric: a JSON list
    of names. Without that list they are over all relations, which is named among the problems.
    """
    path = folder / "aro" / "vgr_excluded_relations.json"
    excluded = set(load_json(path, list)) if path.exists() else set()

    def tags(row: dict) -> dict[str, str]:
        name = row["relation_name"]
        return {"relation": name} | ({} if name in excluded else {"counted": name, "kind": "asymmetric"})

    items, problems = _items(folder, "visual_genome_relation.json", {"relation_name": str}, tags)
    if not path.exists():
        problems += (
            f"{path}: not found, so symmetric relations count too, unlike in the published scores; get it by "
            "`python -m naturel_jax.benchmarks --download vg_relation`",
        )
    metrics = (
        Metric("vg_relation/macro", "right", macro="counted"),
        Metric("vg_relation/micro", "right", where=("kind", "asymmetric")),
        *by_value("vg_relation/relation", "right", "relation", items),
    )
    return Benchmark("vg_relation", items, rules.pair, metrics, published=23_937, problems=problems, true_captions=1)


def read_attribution(folder: Path) -> Benchmark:
    """From ``aro/visual_genome_attribution.json`` and ``aro/images/``. The macro mean is over ordered attribute pairs
    of 25 cases and more.
    """

    def tags(row: dict) -> dict[str, str]:
        if len(row["attributes"]) != 2 or not all(isinstance(a, str) for a in row["attributes"]):
            raise BenchmarkError(f"field 'attributes' is {row['attributes']!r:.80}, expected two strings")
        return {"attributes": "_".join(row["attributes"])}

    items, problems = _items(folder, "visual_genome_attribution.json", {"attributes": list}, tags)
    metrics = (
        Metric("vg_attribution/macro", "right", macro="attributes", min_count=MIN_ATTRIBUTE_PAIRS),
        Metric("vg_attribution/micro", "right"),
        *by_value("vg_attribution/attributes", "right", "attributes", items),
    )
    return Benchmark("vg_attribution", items, rules.pair, metrics, published=28_748, problems=problems, true_captions=1)


def _items(folder: Path, file: str, fields: dict[str, type], tags: Callable[[dict], dict[str, str]]):
    """The valid items of ``file``, and the problems of the others. An item's id is its row number."""
    rows, images = load_json(folder / "aro" / file, list), Folder(folder / "aro" / "images")
    problems, items = [], []
    for key, row in records(file, ((str(n), row) for n, row in enumerate(rows)), FIELDS | fields, problems):
        x, y, w, h = (row[f"bbox_{side}"] for side in "xywh")
        try:
            image = images.image(row["image_path"], (int(x), int(y), int(x + w), int(y + h)))
            items.append(Item(key, (image,), (row["true_caption"], row["false_caption"]), tags(row)))
        except BenchmarkError as error:
            problems.append(f"{file} record {key}: {error}")
    return tuple(items), tuple(problems)
