"""The benchmarks of two images and two captions that the hub distributes as Parquet: BiVLC (SugarCrepe's captions with
a generated image for each negative; Miranda et al., arXiv 2406.09952), ColorSwap (the colours of two objects are
swapped; Burapacheep et al., arXiv 2402.04492) and VisMin (a photo and an edit that changes an object, an attribute, a
number or a relation; Awal et al., arXiv 2407.16772). Winoground's rows are read here, too.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Entry, HubFiles, Image, Item, Origin, Source
from naturel_jax.benchmarks.files import BenchmarkError, Record, not_found, note, read_items
from naturel_jax.data.seen import identity
from tfds_naturel.common.arrow_files import parquet_batches, parquet_schema
from tfds_naturel.common.files import reading_arrow


def read(
    folder: Path, name: str, images: tuple[str, str], captions: tuple[str, str], tags: Sequence[str], published: int
) -> Benchmark:
    """Reads ``<folder>/<name>/*.parquet``; ``images``, ``captions`` and ``tags`` are its columns."""
    root = folder / name

    def item(key: str, row: Record) -> Item:
        cells = tuple(hub_image(f"{root}/{key}", row[column]) for column in images)
        tagged = {tag: str(row[tag]) for tag in tags if row[tag] is not None}
        return Item(key, cells, tuple(row[column] for column in captions), tagged)

    problems: list[str] = []
    items = read_items(name, rows(root, (*images, *captions, *tags)), dict.fromkeys(captions, str), item, problems)
    metrics = rules.group_metrics(name, items, tags)
    return Benchmark(name, items, rules.two_by_two, metrics, published, problems, chance=rules.GROUPS)


_BIVLC, _VISMIN = "https://arxiv.org/abs/2406.09952", "https://arxiv.org/abs/2407.16772"
BIVLC = Entry(
    Source(
        f"MIT; {coco.LICENCE}",
        "https://huggingface.co/datasets/imirandam/BiVLC",
        "bivlc/*.parquet",
        hub=HubFiles("imirandam/BiVLC", "data/*.parquet", "bivlc"),
        origins=(Origin("COCO (val2017)", _BIVLC, coco.VAL_2017), Origin("generated images", _BIVLC)),
    ),
    lambda folder: read(
        folder, "bivlc", ("image", "negative_image"), ("caption", "negative_caption"), ("type", "subtype"), 2_933
    ),
)
COLORSWAP = Entry(
    Source(
        "MIT",
        "https://huggingface.co/datasets/stanfordnlp/colorswap",
        "colorswap/*.parquet (the test split)",
        hub=HubFiles("stanfordnlp/colorswap", "data/test*.parquet", "colorswap"),
        origins=(Origin("generated images", "https://arxiv.org/abs/2402.04492"),),
    ),
    lambda folder: read(
        folder,
        "colorswap",
        ("image_1", "image_2"),
        ("caption_1", "caption_2"),
        ("image_source", "caption_source"),
        300,
    ),
)
VISMIN = Entry(
    Source(
        f"no licence stated; {coco.LICENCE}",
        "https://huggingface.co/datasets/mair-lab/vismin-bench",
        "vismin/*.parquet",
        origins=(Origin("COCO (val2017)", _VISMIN, coco.VAL_2017), Origin("generated images", _VISMIN)),
    ),
    lambda folder: read(folder, "vismin", ("image_0", "image_1"), ("text_0", "text_1"), ("category",), 2_084),
)


def rows(root: Path, columns: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """(file and row number, row) of all ``root/*.parquet`` in order. Raises FileNotFoundError and BenchmarkError."""
    files = sorted(root.glob("*.parquet"))
    if not files:
        raise not_found(root, "contains no *.parquet")
    for file in files:
        with reading_arrow(file, "download it again"):
            names = parquet_schema(note(file)).names
            if missing := set(columns) - set(names):
                raise BenchmarkError(f"{file}: has no column {sorted(missing)}; it has {names}")
            number = 0
            for batch in parquet_batches(file, 64, columns, kept=True):
                for n in range(batch.num_rows):
                    yield f"{file.name} row {number}", {name: _cell(batch[name][n]) for name in columns}
                    number += 1


def _cell(value: pa.Scalar) -> Any:
    """A cell's value; None for a string that is not UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def hub_image(key: str, cell: Any) -> Image:
    """The image in a cell of the hub's image type ({bytes, path}). ``key`` names the row. Raises BenchmarkError."""
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(data, bytes):
        raise BenchmarkError("has no image bytes, expected the hub's image type {bytes, path}")
    path = cell.get("path")
    names = (identity.of_name(path),) if isinstance(path, str) else ()
    return Image(f"{key}/{hashlib.sha1(data).hexdigest()}", lambda: data, names=names)
