"""The images of a pool: those of any training source, read once, in order, in parts of equally many rows.

A source comes in shards (a tar file, a Parquet file, ...); a part is so many consecutive rows of one. Parts are what is
done or not, and what processes divide among them.
"""

import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.config.record_fields import Fields
from naturel_jax.data import datasets
from naturel_jax.data.items.index import read_file
from naturel_jax.data.items.items import Source
from naturel_jax.data.items.records import (
    BadRecord,
    Chosen,
    Names,
    Row,
    Shard,
    Span,
    Table,
    choose,
    place_of,
    rooted,
    to_image,
)
from naturel_jax.data.sources import tfds
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow

_SAMPLED_IMAGES = 1000  # in search of a caption
_HASHED = 1 << 30  # bytes of a source that is identified by its content
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP)


class DiskError(Exception):
    """A file cannot be read now: no fault of the image, so its part is not done. Its cause is an OSError."""


class Part(NamedTuple):
    """Consecutive rows of a shard, ``Pool.rows`` of them, or fewer at its end."""

    shard: int
    number: int


class Entry(NamedTuple):
    """An image of a part; ``caption`` is "" if it has none. Reading the image of a bad record raises BadRecord."""

    part: Part
    caption: str
    image: Image


@dataclasses.dataclass(frozen=True)
class Pool:
    """The images of ``table``, in parts of ``rows``."""

    table: Table
    chosen: Chosen
    rows: int

    @functools.cached_property
    def captioned(self) -> bool:
        """Whether one of the first images has a caption."""
        return any(entry.caption for entry in itertools.islice(self.entries(0), _SAMPLED_IMAGES))

    def digest(self) -> str:
        """Identifies the files of the source by their names and sizes, and by their content if they have at most
        1 GiB together. Images elsewhere, which a table names, are not looked at."""
        sizes = [path.stat().st_size for path in self.table.files]
        is_small, hashed = sum(sizes) <= _HASHED, hashlib.blake2b(digest_size=12)
        for path, size in zip(self.table.files, sizes, strict=True):
            hashed.update(json.dumps([path.name, size]).encode())
            if is_small:
                with path.open("rb") as file:
                    hashed.update(hashlib.file_digest(file, "blake2b").digest())
        return hashed.hexdigest()

    def entries(self, shard: int, wanted: Callable[[Part], bool] = lambda part: True) -> Iterator[Entry]:
        """The images of those parts of a shard that are ``wanted``. If the shard is damaged, the last one has the
        reason."""
        source, name = self.table.shards[shard], os.path.basename(self.table.shards[shard].file)
        rows = _rows(source)
        for first in itertools.count(0, self.rows):
            part, left = Part(shard, first // self.rows), 0
            if wanted(part):
                for left, row in enumerate(itertools.islice(rows, self.rows), 1):
                    yield self._entry(part, source, row, f"{name}:{first + left - 1}")
            else:
                left = sum(1 for _ in itertools.islice(rows, self.rows))
            if left < self.rows:
                return

    def _entry(self, part: Part, shard: Shard, row: Row, name: str) -> Entry:
        try:
            with reading_arrow(shard.file, "copy or download it again"):
                name, image, caption = to_image(row, self.chosen, name)
            if isinstance(image, str):
                place = place_of(shard, self.table.root, image)
                name = place if shard.folder and name == image else name
                return Entry(part, caption, Image(name, functools.partial(_read, os.path.join(self.table.root, place))))
            read = functools.partial(_read, shard.file, *image) if isinstance(image, Span) else image.__bytes__
            return Entry(part, caption, Image(name, read))
        except (BadRecord, UserError) as error:
            return Entry(part, "", Image(name, functools.partial(_fail, error)))


def open_pool(source: str, data_dir: str, split: str, fields: Fields, rows: int, cache_dir: str = "") -> Pool:
    """The pool of ``source``, ``<prefix>:<name>`` as in ``config.data.mixture``; captions are optional. Photos of a
    NatuRel dataset are named by their ids and have no caption, since theirs are in groups.

    Raises what ``datasets.open_unindexed`` raises.
    """
    opened, chosen = datasets.open_unindexed(source, data_dir, split, cache_dir), choose(fields)
    if isinstance(opened, Source):
        folder = datasets.directory(data_dir, source.partition(":")[2] or source, cache_dir)
        opened, chosen = tfds.open_table(folder, split), {**chosen, "positives": Names((), True)}
    return Pool(rooted(opened, fields), chosen, rows)


def _rows(shard: Shard) -> Iterator[Row]:
    """The rows of a shard; a damaged one ends with a BadRecord."""
    rows = iter(shard.rows())
    while True:
        try:
            with reading_arrow(shard.file, "copy or download it again"):
                row = next(rows, None)
        except UserError as error:
            row, rows = BadRecord(f"{error}; what follows in it is left out"), iter(())
        if row is None:
            return
        yield row


def _read(path: str, *span: int) -> bytes:
    """A file or a part of it. Raises ValueError for a path that leads to no file, and DiskError."""
    try:
        return read_file(path, *span)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise ValueError(str(error)) from error
        raise DiskError from error


def _fail(error: Exception) -> bytes:
    raise error
