"""``parquet:FILES``: one or more Parquet files. Images are paths, or bytes, which are copied into the index."""

import functools
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from naturel_jax.data.items.records import Row, Shard, Table, check_split
from naturel_jax.data.sources import arrow
from tfds_naturel.common.arrow_files import parquet_batches, parquet_schema
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow

_ROWS = 256  # rows in memory at a time: they may hold images


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The rows of the files that match ``name``; images are relative to the folder of the file that names them."""
    del data_dir
    check_split("a Parquet file", split)
    paths = [Path(path).resolve() for path in sorted(glob.glob(name, recursive=True))]
    if not paths:
        raise UserError(f"parquet:{name}: no such file; expected a path or a pattern such as data/*.parquet")
    for path in paths:
        with reading_arrow(path, "copy or download it again"):
            _ = parquet_schema(path).names  # decodes them
    root = Path(os.path.commonpath([path.parent for path in paths]))
    folders = [str(path.parent.relative_to(root)) if path.parent != root else "" for path in paths]
    shards = [
        Shard(str(path), functools.partial(_rows, path), folder) for path, folder in zip(paths, folders, strict=True)
    ]
    return Table(f"parquet:{name}", str(root), paths, shards)


def _rows(path: Path) -> Iterator[Row]:
    yield from arrow.rows(parquet_batches(path, _ROWS))
