"""``csv:FILE``: a header, then one record in each row."""

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from naturel_jax.data.items.records import BadRecord, Row, Shard, Table, check_split, existing
from tfds_naturel.common.files import header, reading_csv, separator


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The rows of a file; images are relative to its folder."""
    del data_dir
    check_split("a CSV file", split)
    path = existing(name, "csv").resolve()
    shards = [Shard(str(path), functools.partial(_rows, path))]
    return Table(f"csv:{name}", str(path.parent), [path], shards)


def _rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator(file), strict=True)
        with reading_csv(path):
            names = header(reader)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord(f"line {reader.line_num}: {error}")
                continue
            if len(row) == len(names):
                yield dict(zip(names, row, strict=True))
            elif row:
                yield BadRecord(f"line {reader.line_num} has {len(row)} columns; the header has {len(names)}")
