"""``csv:FILE``: a header, then one record in each row."""

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from naturel_jax.data.items.records import BadRecord, Row, Shard, Table, check_split, existing
from tfds_naturel.common.files import header, holds_rows, reading_csv, separator, swallowed


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The rows of a file; images are relative to its folder."""
    del data_dir
    check_split("a CSV file", split)
    path = existing(name, "csv").resolve()
    shards = [Shard(str(path), functools.partial(_rows, path))]
    return Table(f"csv:{name}", str(path.parent), [path], shards)


def _rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = separator(file)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        with reading_csv(path):
            names = header(reader)
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield from _lost(first, reader.line_num, f"line {reader.line_num}: {error}")
                continue
            if reader.line_num > first and holds_rows(row, len(names), delimiter):
                yield from _lost(first, reader.line_num, swallowed(first, reader.line_num))
            elif len(row) == len(names):
                yield dict(zip(names, row, strict=True))
            elif row:
                yield BadRecord(f"line {reader.line_num} has {len(row)} columns; the header has {len(names)}")


def _lost(first: int, last: int, reason: str) -> Iterator[BadRecord]:
    """A bad record for each of the lines: what is in them may be as many records."""
    yield BadRecord(reason)
    yield from (BadRecord(f"line {line} is part of a cell of line {first}") for line in range(first + 1, last + 1))
