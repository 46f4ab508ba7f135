"""Opens a table of records through its index on disk, leaving out bad records.

Shape letters: N records, S shards.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.config.record_fields import Fields
from naturel_jax.data.items import columns, records, tags
from naturel_jax.data.items.items import Origin, Source
from naturel_jax.data.items.items_on_disk import open_items
from naturel_jax.data.items.records import Table
from naturel_jax.storage import once
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json

_LOG = logging.getLogger(__name__)

BAD_VERSION = 1  # of bad.jsonl

_LARGEST = 1 << 28  # bytes of an image; an uncompressed one of MAX_PIXELS has 192 million
_QUOTED = 3  # bad records that a message quotes


def open_source(table: Table, fields: Fields, folder: Path, max_bad: float) -> Source:
    """The records of ``table``, whose index is in ``folder``, as training data.

    Bad records are left out. Raises UserError if their share is above ``max_bad``.
    """
    meta = once.read_meta(folder)
    bad, checked = read_bad(folder)
    total = meta["records"]
    if bad:
        examples = "; ".join(f"{row['name']}: {row['reason']}" for row in bad[:_QUOTED])
        summary = f"{table.name}: {len(bad):,} of {total:,} records are bad ({examples})"
        if len(bad) > max_bad * total or len(bad) == total:
            raise UserError(
                f"{summary}; config.data.max_bad is {max_bad:g}. All are in {_bad_path(folder)}: repair them, name the "
                "right fields (config.data.mixture.<part>.fields), or raise it"
            )
        _LOG.warning("%s; they are left out", summary)
    if several := meta["several"]:
        _LOG.warning(
            "%s: %s images have several records, such as %.80r: in a batch, the captions of one record count as wrong "
            "for the image in another, with any config.objective.counting; put all captions of an image into one "
            "record, as a list",
            table.name,
            *(f"{several['images']:,}", several["example"]),
        )
    if not checked:
        _LOG.info(
            "%s: images not checked; python -m naturel_jax.data.check, with the config's fields and folders as flags, "
            "reads them all once",
            table.name,
        )
    left_out = np.array(sorted(row["record"] for row in bad), np.int64)
    items = dataclasses.replace(open_items(folder, meta["source"]), left_out=left_out, tags=tags.read(folder))
    content = hashlib.blake2b(meta["content"].encode() + left_out.tobytes(), digest_size=16).hexdigest()
    return Source(items, open_images(table, fields, folder, meta), content, Origin(str(folder)))


def open_images(table: Table, fields: Fields, folder: Path, meta: dict[str, Any]) -> Callable[[int], bytes]:
    """Number of a record of ``table`` -> its encoded image."""
    if table.read_image:
        return functools.partial(table.read_image, field=records.choose(fields)["image"].fields)
    counts = [count for _, count in meta["shards"]]
    files = [shard.file for shard, _ in zip(table.shards, counts, strict=True)]
    first_S = np.cumsum([0, *counts[:-1]])
    offset_N, size_N, checksum_N = (columns.find(folder, name) for name in ("offset", "size", "checksum"))
    names = columns.find_strings(folder, "names")
    return Images(folder, meta["root"], names, files, first_S, offset_N, size_N, checksum_N)


@dataclasses.dataclass(frozen=True)
class Images:
    """Reads the encoded image of a record: a file, or a part of one. ``first_S``: number of the first record of each
    shard; ``checksum_N``: XXH3 of the images that the index has copied, 0 of those that are read from ``files``.

    Raises DamagedCopy for one that has another checksum; the index in ``folder`` is then made again by the next start.
    """

    folder: Path
    root: str
    names: Sequence[str]
    files: Sequence[str]
    first_S: np.ndarray
    offset_N: np.ndarray
    size_N: np.ndarray
    checksum_N: np.ndarray

    def __call__(self, n: int) -> bytes:
        offset, size = int(self.offset_N[n]), int(self.size_N[n])
        if size < 0:
            return read_file(os.path.join(self.root, self.names[n]))
        shard, checksum = int(np.searchsorted(self.first_S, n, side="right")) - 1, int(self.checksum_N[n])
        if not checksum:
            return read_file(self.files[shard], offset, size)
        path = self.folder / "parts" / str(shard) / "images.bin"
        data = read_file(str(path), offset, size)
        if xxhash.xxh3_64_intdigest(data) != checksum:
            (self.folder / once.META).unlink(missing_ok=True)
            raise once.DamagedCopy(f"its copy in {path} is damaged; run the same command again, which makes another")
        return data


def read_file(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """Part of a file, or all of it. Raises ValueError for a device or pipe, which may never end, and for more
    than ``_LARGEST`` bytes."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        size = status.st_size if size is None else size
        if size > _LARGEST:
            raise ValueError(f"an image of {size:,} bytes; the limit is {_LARGEST:,}")
        return os.pread(file, size, offset)
    finally:
        os.close(file)


# ---- Bad records ----------------------------------------------------------------------------------------------------


Bad = dict[str, Any]  # record (its number), name, reason


def _bad_path(folder: Path) -> Path:
    path = folder / "bad.jsonl"
    return path if path.exists() else folder / "problems.jsonl"


def _read_rows(path: Path) -> list[Bad]:
    try:
        return [parse_json(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path}: not a list of bad records ({error}); remove it and check again") from error


def read_unusable(folder: Path) -> list[Bad]:
    """The records of the index in ``folder`` that cannot be used, regardless of their images."""
    return _read_rows(folder / "problems.jsonl")


def read_bad(folder: Path) -> tuple[list[Bad], bool]:
    """The bad records known for the index in ``folder``, and whether its images were checked.

    Raises UserError for a list of another version.
    """
    path = _bad_path(folder)
    rows = _read_rows(path)
    if path.name == "problems.jsonl":
        return rows, False
    first, *bad = rows or [{}]
    if (version := first.get("version")) != BAD_VERSION:
        raise UserError(f"{path} has version {version!r}; this program reads {BAD_VERSION}: remove it and check again")
    if first.get("xxh3") != _digest(bad):
        raise UserError(f"{path} is damaged: it does not have its checksum; remove it and check again")
    return bad, True


def write_bad(folder: Path, rows: Sequence[Bad]) -> Path:
    """Replaces the list of bad records of the index in ``folder``; returns its path."""
    path = folder / "bad.jsonl"
    first = {"version": BAD_VERSION, "xxh3": _digest(rows)}
    storage.write(epath.Path(path), "".join(json.dumps(row) + "\n" for row in [first, *rows]))
    return path


def _digest(rows: Sequence[Bad]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(rows).encode())
