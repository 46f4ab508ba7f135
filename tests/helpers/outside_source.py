"""A data source as a user would write it: a folder of images and a JSON list of (image, positives, negatives)."""

import functools
import json
from pathlib import Path

from naturel_jax.data.items.items import Caption, Group, Source, collect


def open_folder(name: str, data_dir: str, split: str) -> Source:
    """Reads ``<name>/<split>.json``."""
    del data_dir  # the name is a complete path
    rows = json.loads((Path(name) / f"{split}.json").read_text())
    groups = [[Group(list(map(Caption, row["positives"])), list(map(Caption, row["negatives"])))] for row in rows]
    names = [row["image"] for row in rows]
    return Source(collect(name, zip(names, groups, strict=True)), functools.partial(_read, Path(name), names))


def _read(folder: Path, names: list[str], n: int) -> bytes:
    return (folder / names[n]).read_bytes()
