"""Benchmarks of two images and two captions that the hub distributes as Parquet: BiVLC and ColorSwap, and
Winoground in that form.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, by_value
from naturel_jax.benchmarks.files import BenchmarkError

SCORES = ("text", "image", "group", "matching")


def read_bivlc(folder: Path) -> Benchmark:
    """From ``bivlc/*.parquet``: SugarCrepe's captions with a generated image for each negative (Miranda et al.,
    arXiv 2406.09952).
    """
    columns = ("image", "negative_image", "caption", "negative_caption")
    return _read(folder / "bivlc", "bivlc", columns, ("type", "subtype"), published=2_933)


def read_colorswap(folder: Path) -> Benchmark:
    """From ``colorswap/test*.parquet``: the colours of two objects swapped (Burapacheep et al., arXiv 2402.04492)."""
    columns = ("image_1", "image_2", "caption_1", "caption_2")
    return _read(folder / "colorswap", "colorswap", columns, ("image_source", "caption_source"), published=300)


def _read(
    root: Path, name: str, columns: tuple[str, str, str, str], tags: tuple[str, ...], published: int
) -> Benchmark:
    problems, items = [], []
    for key, row in rows(root, (*columns, *tags)):
        captions = tuple(row[column] for column in columns[2:])
        try:
            images = tuple(hub_image(f"{root}/{key}", row[column]) for column in columns[:2])
            if not all(isinstance(caption, str) for caption in captions):
                raise BenchmarkError(f"captions are {captions!r:.80}, expected strings")
        except BenchmarkError as error:
            problems.append(f"{key}: {error}")
            continue
        found = {tag: str(row[tag]) for tag in tags if row[tag] is not None}
        items.append(Item(key, images, captions, found))
    metrics = [Metric(f"{name}/{score}", score) for score in SCORES]
    for tag in tags:
        for score in SCORES[:3]:
            metrics += by_value(f"{name}/{score}", score, tag, items)
    return Benchmark(name, tuple(items), rules.two_by_two, tuple(metrics), published, tuple(problems))


def rows(root: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and row number, row) of all ``root/*.parquet`` in order. Raises FileNotFoundError and BenchmarkError."""
    files = sorted(root.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{root}: no .parquet file; `python -m naturel_jax.benchmarks` says where to get it")
    for file in files:
        try:
            table = pq.ParquetFile(file)
            missing = set(columns) - set(table.schema_arrow.names)
            if missing:
                raise BenchmarkError(f"{file}: has no column {sorted(missing)}; it has {table.schema_arrow.names}")
            number = 0
            for batch in table.iter_batches(batch_size=64, columns=list(columns)):
                for row in batch.to_pylist():
                    yield f"{file.name} row {number}", row
                    number += 1
        except pa.ArrowException as error:
            raise BenchmarkError(f"{file}: not a readable Parquet file ({error}); download it again") from error


def hub_image(key: str, cell: Any) -> Image:
    """The image of a cell of the hub's image type ({bytes, path}). ``key`` names the row. Raises BenchmarkError."""
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(data, bytes):
        raise BenchmarkError("has no image bytes, expected the hub's image type {bytes, path}")
    return Image(f"{key}/{hashlib.sha1(data).hexdigest()}", lambda: data)
