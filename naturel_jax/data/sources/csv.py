"""``csv:FILE``: a header, then one record in each row."""

import csv
import functools
from collections.abc import Iterator, Sequence
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
                yield BadRecord(f"line {reader.line_num}: {error}")
                continue
            if reader.line_num > first and _has_rows(row, len(names), delimiter):
                yield BadRecord(
                    f"lines {first} to {reader.line_num} are one record, since a cell begins with a quote: put that "
                    "cell in quotes and double those in it; a caption itself is one line"
                )
            elif len(row) == len(names):
                yield dict(zip(names, row, strict=True))
            elif row:
                yield BadRecord(f"line {reader.line_num} has {len(row)} columns; the header has {len(names)}")


def _has_rows(row: Sequence[str], columns: int, delimiter: str) -> bool:
    """Whether a cell has rows that follow in it: a quote of its text, such as one that a caption begins with, was taken
    for one around it. Captions have no tabs."""
    for n, cell in enumerate(row):
        cells = [line.count(delimiter) + 1 for line in cell.split("\n")]
        rest_and_rows = [columns - n, *[columns] * (len(cells) - 2), n + 1]
        if len(cells) > 1 and (cells == rest_and_rows or (delimiter == "\t" and max(cells) > 1)):
            return True
    return False
