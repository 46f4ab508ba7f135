"""Builds the index of a table of records: its captions, and where its images are, as columns on disk (``index.py``).

It is built once, from all shards in parallel, in ``<data dir>/.cache/<key>/``; the key depends on the table's files,
their sizes and times, and the fields. Shards that were read before an interruption are not read again.

    meta.json                  version, source, number of records, digest of their content, shards
    names.*                    path of each image, or the name of its record
    offset.*, size.*           part of the shard's file that is the image; -1: it has a path
    groups.*, positives_*, ... the columns of Items
    problems.jsonl             records that cannot be used; bad.jsonl, if check.py has read the images, has theirs too
    parts/<shard>/             records.arrow, and images.bin if the table's rows hold encoded images
"""

import concurrent.futures
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from naturel_jax import storage
from naturel_jax.data import columns
from naturel_jax.data.fields import Fields
from naturel_jax.data.records import BadRecord, Chosen, Record, Row, Shard, Span, Table, choose, to_record
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1
_BATCH = 8192  # records in memory at a time
_SIDES = ("positives", "negatives")
_LISTS = (*_SIDES, "asserts", "negative_asserts", "shows")
_SCHEMA = pa.schema(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("problem", pa.string())]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
)


def cache_folder(data_dir: str) -> Path:
    """The folder of what is derived from training data: on a local disk."""
    return Path(data_dir) / ".cache" if "://" not in data_dir else Path.home() / ".cache" / "naturel_jax"


def folder_of(table: Table, fields: Fields, data_dir: str) -> Path:
    """Where the index of ``table`` is, or would be."""
    stats = [(str(path), *_size_and_time(path)) for path in table.files]
    key = json.dumps([VERSION, table.name, table.root, dataclasses.asdict(fields), stats])
    return cache_folder(data_dir) / hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def build(table: Table, fields: Fields, folder: Path, workers: int = 0) -> None:
    """Builds the index in ``folder`` unless it is there. ``workers``: processes; 0: one for each core.

    Raises UserError for a table without records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or the process ends
        if not (folder / "meta.json").exists():
            _LOG.info("indexing %s in %s", table.name, folder)
            parts = [folder / "parts" / str(n) for n in range(len(table.shards))]
            _write_parts(table, fields, parts, workers)
            storage.write(epath.Path(folder / "meta.json"), json.dumps(_merge(table, parts, folder)))
            for part in parts:
                _records(part).unlink()


def _write_parts(table: Table, fields: Fields, parts: Sequence[Path], workers: int) -> None:
    """Writes the parts that are missing."""
    jobs = [(shard, part) for shard, part in zip(table.shards, parts, strict=True) if not _records(part).exists()]
    write = functools.partial(_write_part, fields=fields, copy_images=table.read_image is None)
    for done, _ in enumerate(parallel(write, jobs, workers), 1):
        if len(jobs) > 1:
            _LOG.info("%s: read %d of %d shards", table.name, done, len(jobs))


def parallel(function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int = 0) -> Iterator[T]:
    """The results of ``function(*job)`` in the order of ``jobs``, computed by ``workers`` processes (0: one for each
    core)."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from itertools.starmap(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed; the pool's workers would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# ---- One shard ------------------------------------------------------------------------------------------------------


def _records(part: Path) -> Path:
    return part / "records.arrow"


def _write_part(shard: Shard, part: Path, fields: Fields, copy_images: bool) -> None:
    """Writes the records of one shard, and the images that its rows hold."""
    part.mkdir(parents=True, exist_ok=True)
    partial, images = part / "partial.arrow", part / "partial.bin"
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer, images.open("wb") as blob:
        rows, chosen, prefix = enumerate(shard.rows()), choose(fields), Path(shard.file).name
        while batch := list(itertools.islice(rows, _BATCH)):
            records = [_describe(row, f"{prefix}:{n}", chosen, blob if copy_images else None) for n, row in batch]
            writer.write_batch(pa.RecordBatch.from_pylist(records, _SCHEMA))
    if images.stat().st_size:
        images.replace(part / "images.bin")
    else:
        images.unlink()
    partial.replace(_records(part))


def _describe(row: Row, name: str, chosen: Chosen, blob: BinaryIO | None) -> dict[str, Any]:
    """A row of ``records.arrow``; a bad record has a ``problem`` and no captions."""
    try:
        record = to_record(row, chosen, name)
    except BadRecord as error:
        return {"name": name, "offset": -1, "size": -1, "problem": str(error)} | {key: [] for key in _LISTS}
    return record._asdict() | dict(zip(("offset", "size"), _place(record, blob), strict=True)) | {"problem": ""}


def _place(record: Record, blob: BinaryIO | None) -> Span:
    if isinstance(record.image, Span):
        return record.image
    if isinstance(record.image, bytes) and blob:
        return Span(blob.tell(), blob.write(record.image))
    return Span(-1, -1)


# ---- All shards -----------------------------------------------------------------------------------------------------


def _merge(table: Table, parts: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the columns; returns the metadata."""
    tables = [pa.ipc.open_file(pa.memory_map(str(_records(part)))).read_all() for part in parts]
    if not any(map(len, tables)):
        raise UserError(f"{table.name}: no records; expected at least one")
    rows = pa.concat_tables(tables)  # mapped, not copied
    _write_strings(out, "names", rows["name"])
    for name in ("offset", "size"):
        columns.write(out, name, map(np.asarray, rows[name].chunks))
    columns.write(out, "groups", [np.arange(len(rows) + 1, dtype=np.int32)])
    columns.write(out, "attribute", [np.zeros(len(rows), bool)])
    _write_texts(out, rows)
    _write_problems(out, rows)
    images = [part / "images.bin" for part in parts]
    files = [str(own if own.exists() else shard.file) for own, shard in zip(images, table.shards, strict=True)]
    return {
        "version": VERSION,
        "source": table.name,
        "root": table.root,
        "records": len(rows),
        "content": _digest(out),
        "shards": [[file, len(part)] for file, part in zip(files, tables, strict=True)],
    }


def _write_strings(out: Path, name: str, column: pa.ChunkedArray) -> None:
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    columns.write_starts(out, f"{name}_starts", (pc.binary_length(chunk).to_numpy() for chunk in chunks))
    columns.write(out, name, itertools.chain([np.empty(0, np.uint8)], map(_bytes_of, chunks)))


def _bytes_of(strings: pa.StringArray) -> np.ndarray:
    """The UTF-8 bytes of all strings."""
    _, starts, data = strings.buffers()
    if data is None:
        return np.empty(0, np.uint8)
    start, stop = np.frombuffer(starts, np.int32)[[strings.offset, strings.offset + len(strings)]]
    return np.frombuffer(data, np.uint8)[start:stop]


def _write_texts(out: Path, rows: pa.Table) -> None:
    """Captions, texts and facts. Only if there are facts are equal captions one text, which asserts what any of them
    does: finding them needs memory for all texts."""
    lengths = {name: _lengths(rows[name]) for name in _LISTS}
    captions = _flat(rows, _SIDES)
    claims = _flat(rows, ("asserts", "negative_asserts", "shows"))
    known_F = np.asarray(pc.not_equal(claims, ""), bool)
    fact_K, facts = _numbered(claims.filter(pa.array(known_F)))
    text_C, texts = _numbered(captions) if len(fact_K) else (np.arange(len(captions), dtype=np.int32), captions)
    _write_strings(out, "texts", texts)
    _write_strings(out, "facts", facts)
    for side, of_side in zip(_SIDES, np.split(text_C, [lengths["positives"].sum()]), strict=True):
        columns.write_starts(out, f"{side}_starts", [lengths[side]])
        columns.write(out, f"{side}_text", [of_side])
        columns.write(out, f"{side}_pair", [_counted(lengths[side])])
        columns.write(out, f"{side}_simple", [np.zeros(len(of_side), bool)])
    shown = lengths["shows"]
    text_F = np.concatenate([text_C, np.full(shown.sum(), -1)])[known_F]
    image_F = np.concatenate(
        [
            np.repeat(np.arange(len(rows)), lengths["positives"]),
            np.full(lengths["negatives"].sum(), -1),
            np.repeat(np.arange(len(rows)), shown),
        ]
    )[known_F]
    _write_ragged(out, "asserts", text_F, fact_K, len(texts))
    _write_ragged(out, "shows", image_F, fact_K, len(rows))


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.list_value_length(column))


def _flat(rows: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    """The values of several columns of lists, one after another."""
    return pa.chunked_array([chunk.flatten() for name in names for chunk in rows[name].chunks], pa.string())


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of the lengths: the number of each caption in its record, which is that of its pair."""
    ends = np.cumsum(lengths)
    return (np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)).astype(np.uint16)


def _numbered(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
    """The number of each string, in the order of their first use, and the distinct strings."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.empty(0, np.int32), column
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return numbers, pa.chunked_array([encoded.chunk(0).dictionary])


def _write_ragged(out: Path, name: str, row: np.ndarray, value: np.ndarray, rows: int) -> None:
    """Row -> its distinct values, in ascending order; rows below 0 are left out."""
    most = int(value.max(initial=0)) + 1
    row, value = np.divmod(np.unique((row.astype(np.int64) * most + value)[row >= 0]), most)
    columns.write_starts(out, f"{name}_starts", [np.bincount(row, minlength=rows)])
    columns.write(out, f"{name}_values", [value.astype(np.int32)])


def _write_problems(out: Path, rows: pa.Table) -> None:
    """``problems.jsonl``: the records that cannot be used."""
    with (out / "problems.jsonl").open("w") as file:
        first = 0
        for batch in rows.select(["name", "problem"]).to_batches():
            for n in pc.indices_nonzero(pc.not_equal(batch["problem"], "")).to_pylist():
                name, reason = batch["name"][n].as_py(), batch["problem"][n].as_py()
                file.write(json.dumps({"record": first + n, "name": name, "reason": reason}) + "\n")
            first += len(batch)


def _digest(folder: Path) -> str:
    """Of the records' names, captions and facts, whatever the times of their files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name != "lock"):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
