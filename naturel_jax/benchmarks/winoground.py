"""Winoground: two images, two captions of the same words (Thrush et al., arXiv 2204.03162)."""

from collections.abc import Callable, Iterator
from pathlib import Path

from naturel_jax.benchmarks import hub_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, by_value
from naturel_jax.benchmarks.files import Archive, BenchmarkError, load_json, load_json_lines, records

FIELDS = {"id": int, "caption_0": str, "caption_1": str, "collapsed_tag": str, "secondary_tag": str}
SCORES = ("text", "image", "group", "matching")


def read(folder: Path) -> Benchmark:
    """From ``winoground/data/examples.jsonl`` and ``images.zip``, beside ``data/`` or in it as on the hub; or from
    ``winoground/*.parquet``.

    With ``winoground/new_tag_assignments.json`` beside them also by the tags of "Why is Winoground Hard?" (Diwan et
    al., arXiv 2211.00768).
    """
    root = folder / "winoground"
    why, problems, items = _why_hard(root / "new_tag_assignments.json"), [], []
    for key, row, image in _hub_rows(root, problems) if any(root.glob("*.parquet")) else _rows(root, problems):
        try:
            images = tuple(image(row[f"image_{k}"]) for k in (0, 1))
        except BenchmarkError as error:
            problems.append(f"winoground record {key}: {error}")
            continue
        tags = {tag: row[tag] or () for tag in ("collapsed_tag", "secondary_tag")} | {"why": why.get(key, ())}
        items.append(Item(key, images, (row["caption_0"], row["caption_1"]), tags))
    metrics = _metrics(items)
    return Benchmark("winoground", tuple(items), rules.two_by_two, metrics, published=400, problems=tuple(problems))


def _rows(root: Path, problems: list[str]) -> Iterator[tuple[str, dict, Callable[[str], Image]]]:
    """(id, record, how to find its images) of the official files."""
    places = (root / "images.zip", root / "data" / "images.zip")
    archive = Archive(next(filter(Path.exists, places), places[0]))
    rows = load_json_lines(root / "data" / "examples.jsonl")
    keyed = ((str(row.get("id")) if isinstance(row, dict) else f"of line {n}", row) for n, row in enumerate(rows, 1))
    for key, row in records("winoground", keyed, FIELDS | {"image_0": str, "image_1": str}, problems):
        yield key, row, lambda name: archive.image(f"{name}.png")


def _hub_rows(root: Path, problems: list[str]) -> Iterator[tuple[str, dict, Callable[[dict], Image]]]:
    keyed = ((str(row["id"]), row) for _, row in hub_pairs.rows(root, (*FIELDS, "image_0", "image_1")))
    for key, row in records("winoground", keyed, FIELDS | {"image_0": dict, "image_1": dict}, problems):
        yield key, row, lambda cell, key=key: hub_pairs.hub_image(f"{root}/{key}", cell)


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
