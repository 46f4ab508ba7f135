"""Winoground: two images, two captions of the same words (Thrush et al., arXiv 2204.03162)."""

from pathlib import Path

from naturel_jax.evaluators import rules
from naturel_jax.evaluators.benchmark import Benchmark, Item, Metric, by_value
from naturel_jax.evaluators.files import Archive, BenchmarkError, load_json, load_json_lines, records

FIELDS = {
    "id": int,
    "caption_0": str,
    "caption_1": str,
    "image_0": str,
    "image_1": str,
    "collapsed_tag": str,
    "secondary_tag": str,
}
SCORES = ("text", "image", "group", "matching")


def read(folder: Path) -> Benchmark:
    """From ``winoground/data/examples.jsonl`` and ``winoground/images.zip``; with
    ``winoground/new_tag_assignments.json`` beside them also by the tags of "Why is Winoground Hard?" (Diwan et al.,
    arXiv 2211.00768).
    """
    root = folder / "winoground"
    rows = load_json_lines(root / "data" / "examples.jsonl")
    archive, problems, items = Archive(root / "images.zip"), [], []
    why = _why_hard(root / "new_tag_assignments.json")
    keyed = ((str(row.get("id")) if isinstance(row, dict) else f"of line {n}", row) for n, row in enumerate(rows, 1))
    for key, row in records("examples.jsonl", keyed, FIELDS, problems):
        try:
            images = tuple(archive.image(row[f"image_{k}"] + ".png") for k in (0, 1))
        except BenchmarkError as error:
            problems.append(f"examples.jsonl record {key}: {error}")
            continue
        tags = {
            "collapsed_tag": row["collapsed_tag"],
            "secondary_tag": row["secondary_tag"] or (),
            "why": why.get(key, ()),
        }
        items.append(Item(key, images, (row["caption_0"], row["caption_1"]), tags))
    return Benchmark(
        "winoground", tuple(items), rules.two_by_two, _metrics(items), published=400, problems=tuple(problems)
    )


def _metrics(items: list[Item]) -> tuple[Metric, ...]:
    metrics = [Metric(f"winoground/{score}", score) for score in SCORES]
    for tag in ("collapsed_tag", "secondary_tag", "why"):
        for score in SCORES:
            metrics += by_value(f"winoground/{score}", score, tag, items)
    return tuple(metrics)


def _why_hard(path: Path) -> dict[str, tuple[str, ...]]:
    """Item id -> tags; empty without the file. An item without a tag is ``No Tag``, as in the paper."""
    if not path.exists():
        return {}
    assigned = load_json(path, dict)
    if not all(isinstance(tags, list) and all(isinstance(tag, str) for tag in tags) for tags in assigned.values()):
        raise BenchmarkError(f"{path}: expected an object of item id -> list of tags")
    return {key: tuple(tags) or ("No Tag",) for key, tags in assigned.items()}
