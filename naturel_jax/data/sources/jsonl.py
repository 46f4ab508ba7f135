"""``jsonl:FILE``: one JSON object in each line."""

import functools
from collections.abc import Iterator
from pathlib import Path

from naturel_jax.data.items.records import BadRecord, Row, Shard, Table, check_split, existing
from tfds_naturel.common.files import parse_json, unique_keys

BLOCK = 64 << 20  # bytes read together


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The lines of a file; images are relative to its folder."""
    del data_dir
    check_split("a JSONL file", split)
    path = existing(name, "jsonl").resolve()
    blocks = range(0, path.stat().st_size, BLOCK)
    shards = [Shard(str(path), functools.partial(_rows, path, start, start + BLOCK)) for start in blocks]
    return Table(f"jsonl:{name}", str(path.parent), [path], shards)


def _rows(path: Path, start: int, stop: int) -> Iterator[Row]:
    """The lines that start at one of the bytes from ``start`` to ``stop - 1``."""
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            start += len(file.readline()) - 1
        for line in file:
            if start >= stop:
                return
            start += len(line)
            if line.strip():
                yield _parse(line)


def _parse(line: bytes) -> Row:
    try:
        row = parse_json(line, object_pairs_hook=unique_keys)
    except ValueError as error:
        return BadRecord(f"not JSON: {error}")
    return row if isinstance(row, dict) else BadRecord(f"{row!r:.60} is not a JSON object")
