"""Winoground: two images, two captions with the same words (Thrush et al., arXiv 2204.03162)."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from naturel_jax.benchmarks import hub_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, HubFiles, Image, Item, Origin, Overlap, Source
from naturel_jax.benchmarks.files import (
    Archive,
    BenchmarkError,
    Fields,
    Record,
    load_json,
    load_json_lines,
    read_items,
)

SOURCE = Source(
    "Winoground: research only, gated; Why-is-Winoground-hard tags MIT",
    "https://huggingface.co/datasets/facebook/winoground (accept its terms, then `hf auth login`)",
    "winoground/data/examples.jsonl and winoground/images.zip, or winoground/*.parquet",
    {
        "winoground/new_tag_assignments.json": (
            "https://raw.githubusercontent.com/ajd12342/why-winoground-hard/main/new_tag_assignments.json"
        )
    },
    hub=HubFiles("facebook/winoground", "data/*", "winoground"),
    origins=(
        Origin(
            "Getty Images",
            "https://huggingface.co/datasets/facebook/winoground",
            (Overlap("half of Winoground", "NegCLIP-AP's recipe trains on one; the other half is scored"),),
        ),
    ),
)
FIELDS: Fields = {"id": int, "caption_0": str, "caption_1": str, "collapsed_tag": str, "secondary_tag": str}


def read(folder: Path) -> Benchmark:
    """Reads ``winoground/data/examples.jsonl`` and ``images.zip``, next to ``data/`` or inside it as on the hub; or
    ``winoground/*.parquet``.

    If ``winoground/new_tag_assignments.json`` is there, also scores by the tags of "Why is Winoground Hard?" (Diwan et
    al., arXiv 2211.00768).
    """
    root = folder / "winoground"
    why = _why_hard(root / "new_tag_assignments.json")
    rows, cell, image_from = _hub(root) if any(root.glob("*.parquet")) else _official(root)

    def item(key: str, row: Record) -> Item:
        names = (f"winoground:{key}",)
        images = tuple(dataclasses.replace(image_from(key, row[f"image_{k}"]), names=names) for k in (0, 1))
        tags = {tag: row[tag] or () for tag in ("collapsed_tag", "secondary_tag")} | {"why": why.get(key, ())}
        return Item(key, images, (row["caption_0"], row["caption_1"]), tags)

    problems: list[str] = []
    items = read_items("winoground", rows, {**FIELDS, "image_0": cell, "image_1": cell}, item, problems)
    metrics = rules.group_metrics("winoground", items, ("collapsed_tag", "secondary_tag", "why"), rules.TWO_BY_TWO)
    return Benchmark("winoground", items, rules.two_by_two, metrics, 400, problems, chance=rules.GROUPS)


Keyed = Iterable[tuple[str, Any]]
ImageFrom = Callable[[str, Any], Image]  # (item id, what the record holds) -> image


def _official(root: Path) -> tuple[Keyed, type, ImageFrom]:
    """(id, record) of the official files, the type of their image fields, and how to open an image."""
    places = (root / "images.zip", root / "data" / "images.zip")
    archive = Archive(next(filter(Path.exists, places), places[0]))
    rows = load_json_lines(root / "data" / "examples.jsonl")
    keyed = ((str(row.get("id")) if isinstance(row, dict) else f"of line {n}", row) for n, row in enumerate(rows, 1))
    return keyed, str, lambda key, name: archive.image(f"{name}.png")


def _hub(root: Path) -> tuple[Keyed, type, ImageFrom]:
    """(id, record) of the hub's Parquet files, the type of their image fields, and how to open an image."""
    rows = hub_pairs.rows(root, (*FIELDS, "image_0", "image_1"))
    return (
        ((str(row["id"]), row) for _, row in rows),
        dict,
        lambda key, cell: hub_pairs.hub_image(f"{root}/{key}", cell),
    )


def _why_hard(path: Path) -> dict[str, tuple[str, ...]]:
    """Item id -> tags; empty without the file. An item without a tag is ``No Tag``, as in the paper."""
    if not path.exists():
        return {}
    assigned = load_json(path, dict)
    for key, tags in assigned.items():
        if not (key.isdecimal() and isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            raise BenchmarkError(f"{path}: has {key!r:.80}: {tags!r:.80}; expected item id -> list of tags")
    return {key: tuple(tags) or ("No Tag",) for key, tags in assigned.items()}
