"""``folder:FOLDER``: images, with a file of captions (``captions`` or ``metadata`` + ``.csv``, ``.tsv`` or ``.jsonl``)
or each with a text file of the same name, one true caption in each line."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from naturel_jax.data.images.decode import SUFFIXES
from naturel_jax.data.items.records import LARGEST_TEXT, BadRecord, Row, Shard, Table, check_split, existing
from naturel_jax.data.sources import csv, jsonl
from tfds_naturel.common.errors import UserError

_TABLES = {".csv": csv.open_table, ".tsv": csv.open_table, ".jsonl": jsonl.open_table}


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The images of a folder and its subfolders."""
    check_split("a folder of images", split)
    folder = existing(name, "folder").resolve()
    for stem in ("captions", "metadata"):
        for suffix, open_file in _TABLES.items():
            if (path := folder / f"{stem}{suffix}").exists():
                table = open_file(str(path), data_dir, split)
                return dataclasses.replace(table, name=f"folder:{name}")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    texts = [path.with_suffix(".txt") for path in images]
    if not images:
        names = ", ".join(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in _TABLES)
        raise UserError(f"folder:{name}: 0 images, no captions; expected {names}, or a .txt for each image")
    files = [*images, *(path for path in texts if path.exists())]
    shard = Shard(str(folder), functools.partial(_rows, folder, images, texts))
    return Table(f"folder:{name}", str(folder), files, [shard])


def _rows(folder: Path, images: Sequence[Path], texts: Sequence[Path]) -> Iterator[Row]:
    for image, text in zip(images, texts, strict=True):
        name = str(image.relative_to(folder))
        if not text.is_file():  # reading a pipe or device would not end
            yield BadRecord(f"{name} has no captions: {text.name} does not exist or is no file", {"image": name})
            continue
        if (size := text.stat().st_size) > LARGEST_TEXT:  # a sparse file has any size
            yield BadRecord(f"{text.name} has {size:,} bytes; the limit of a text is {LARGEST_TEXT:,}", {"image": name})
            continue
        lines = text.read_bytes().splitlines()
        yield {"image": name, "positives": [line for line in lines if line.strip()] or ""}
