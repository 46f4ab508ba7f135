"""Builds the index of a table of records: its captions and the places of its images, as columns on disk (``index.py``).

It is built once, from all shards in parallel, in ``<data dir>/.cache/<key>/``; the key depends on the table's files,
their sizes and modification times, and the fields. Shards read before an interruption are not read again.

    meta.json                  version, source, number of records, digest of their content, shards, how many images have
                               several records, checksums of files
    names.*                    path of each image, or the name of its record
    offset.*, size.*           part of the shard's file, or of images.bin, that is the image; -1: it has a path
    groups.*, positives_*, ... the columns of Items
    problems.jsonl             records that cannot be used; bad.jsonl, if check.py has read the images, has theirs too
    checksum.*                 XXH3 of the image if it is in images.bin, else 0
    parts/<shard>/             images.bin if encoded images are not in the shard's file as they are; until all shards
                               have been read, records.arrow as well, with its checksum in meta.json

Shape letters: N records, C captions of one polarity after another, K facts of captions.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from naturel_jax.config.record_fields import Fields
from naturel_jax.data.items import columns
from naturel_jax.data.items.records import (
    BadRecord,
    Chosen,
    Record,
    Row,
    Shard,
    Span,
    Table,
    choose,
    place_of,
    rooted,
    to_record,
)
from naturel_jax.storage import once
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_checked = set[Path]()  # indexes whose checksums this process has compared

VERSION = 4  # of what the same records become, and of the files
_BATCH, _BATCH_TEXT = 8192, 4 << 20  # records, and characters of their texts, in memory at a time
_CHUNK = 1 << 20  # numbers written at a time
_SIDES = ("positives", "negatives")
_LISTS = (*_SIDES, "asserts", "negative_asserts", "shows")
# A bad record. Without a list of its own it is nothing that the garbage collector has to look at, again and again.
_EMPTY: dict[str, Any] = {"offset": -1, "size": -1, "checksum": 0} | dict.fromkeys(_LISTS, ())
_SCHEMA = pa.schema(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("checksum", pa.uint64())]
    + [("problem", pa.string())]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
)


def cache_folder(data_dir: str) -> Path:
    """The folder for what is derived from the training data in ``data_dir``, a local folder."""
    return Path(data_dir) / ".cache"


def folder_of(table: Table, fields: Fields, data_dir: str) -> Path:
    """Where the index of ``table`` is, or would be. A link in ``fields.folder`` counts as what it leads to now."""
    stats = [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in table.files]
    key = [VERSION, table.name, rooted(table, fields).root, dataclasses.asdict(fields), stats]
    return once.folder_of(cache_folder(data_dir), key)


def build(table: Table, fields: Fields, folder: Path, workers: int = 0) -> None:
    """Builds the index in ``folder`` unless it is there. ``workers``: processes; 0: one per core.

    Raises UserError for a table without records.
    """
    table = rooted(table, fields)

    def make() -> dict[str, Any]:
        _LOG.info("indexing %s in %s", table.name, folder)
        parts = [folder / "parts" / str(n) for n in range(len(table.shards))]
        _write_parts(table, fields, parts, workers)
        meta = _merge(table, parts, folder)
        once.write_meta(folder, meta)
        for part in parts:
            _records(part).unlink()
            (part / once.META).unlink()
        return meta

    once.load_or_make(folder, functools.partial(_load, table.name, folder), make)


def _load(name: str, folder: Path) -> dict[str, Any] | None:
    """The metadata of an index; None if it is damaged, or a file does not have the checksum in it."""
    try:
        meta = once.read_meta(folder)
        wrong = once.damaged(folder, {} if folder in _checked else meta["xxh3"])
    except (UserError, KeyError) as error:
        wrong = [str(error)]
    if wrong:
        _LOG.warning("%s: the index in %s is damaged (%s); it is made again", name, folder, wrong[0])
        return None
    _checked.add(folder)
    return meta


def _write_parts(table: Table, fields: Fields, parts: Sequence[Path], workers: int) -> None:
    """Writes the parts that are missing or damaged."""
    jobs = [(shard, part) for shard, part in zip(table.shards, parts, strict=True) if not _is_whole(part)]
    write = functools.partial(_write_part, fields=fields, copy_images=table.read_image is None, root=table.root)
    for done, _ in enumerate(parallel(write, jobs, workers), 1):
        if len(jobs) > 1:
            _LOG.info("%s: read %d of %d shards", table.name, done, len(jobs))


def parallel(function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """The results of ``function(*job)`` in the order of ``jobs``, computed by ``workers`` processes (0: one per
    core)."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from itertools.starmap(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed; otherwise, the pool's workers would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# ---- One shard ------------------------------------------------------------------------------------------------------


def _records(part: Path) -> Path:
    return part / "records.arrow"


def _is_whole(part: Path) -> bool:
    """Whether all records of a shard were written, and are as they were. Images have checksums of their own."""
    try:
        return not once.damaged(part, once.read_meta(part)["xxh3"])
    except FileNotFoundError:
        return False
    except (UserError, KeyError) as error:
        _LOG.warning("%s is damaged (%s); it is made again", part, error)
        return False


def _write_part(shard: Shard, part: Path, fields: Fields, copy_images: bool, root: str) -> None:
    """Writes the records of one shard, and the images that its rows hold. ``root``: the folder that paths stay in."""
    part.mkdir(parents=True, exist_ok=True)
    partial, images = part / "partial.arrow", part / "partial.bin"
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer, images.open("wb") as blob:
        chosen, prefix, own = choose(fields), Path(shard.file).name, blob if copy_images else None
        place = functools.partial(place_of, shard, root)
        described = (_describe(row, f"{prefix}:{n}", chosen, own, place) for n, row in enumerate(shard.rows()))
        while records := _next(shard, described):
            writer.write_batch(pa.RecordBatch.from_pylist(records, _SCHEMA))
    if images.stat().st_size:
        images.replace(part / "images.bin")
    else:
        images.unlink()
    partial.replace(_records(part))
    once.write_meta(part, {"xxh3": {_records(part).name: once.checksum(_records(part))}})


def _next(shard: Shard, described: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The next records. Raises UserError for a damaged file."""
    records, characters = [], 0
    with reading_arrow(shard.file, "copy or download it again"):
        for record in itertools.islice(described, _BATCH):
            records.append(record)
            texts = itertools.chain([record["name"], record["problem"]], *(record[name] for name in _LISTS))
            characters += sum(map(len, texts))
            if characters > _BATCH_TEXT:
                break
    return records


def _describe(
    row: Row, name: str, chosen: Chosen, blob: BinaryIO | None, place: Callable[[str], str]
) -> dict[str, Any]:
    """A row of the part's records; a bad record has a ``problem`` and no captions. ``place``: ``place_of`` an image's
    path, which is the name of the record."""
    try:
        record = to_record(row, chosen, name)
        if isinstance(record.image, str):
            record = record._replace(name=place(record.image), image=place(record.image))
    except BadRecord as error:
        return {**_EMPTY, "name": name, "problem": str(error)}
    checksum = xxhash.xxh3_64_intdigest(record.image) if isinstance(record.image, bytes) and blob else 0
    offset, size = _place(record, blob)
    return record._asdict() | {"offset": offset, "size": size, "checksum": checksum, "problem": ""}


def _place(record: Record, blob: BinaryIO | None) -> Span:
    if isinstance(record.image, Span):
        return record.image
    if isinstance(record.image, bytes) and blob:
        return Span(blob.tell(), blob.write(record.image))
    return Span(-1, -1)


# ---- All shards -----------------------------------------------------------------------------------------------------


class _Parts:
    """The records of all shards, read a batch at a time: mapped files would count as memory of this process."""

    def __init__(self, parts: Sequence[Path]):
        self._files = [str(_records(part)) for part in parts]
        self.counts = [sum(map(len, self._of_file(file, "size"))) for file in self._files]

    def column(self, name: str) -> Iterator[pa.Array]:
        """The values of a column."""
        return itertools.chain.from_iterable(self._of_file(file, name) for file in self._files)

    def lengths(self, name: str) -> list[np.ndarray]:
        """How many strings each record has in a column of lists."""
        return [pc.list_value_length(lists).to_numpy() for lists in self.column(name)]

    @staticmethod
    def _of_file(file: str, name: str) -> Iterator[pa.Array]:
        options = pa.ipc.IpcReadOptions(included_fields=[_SCHEMA.get_field_index(name)])
        with pa.OSFile(file) as source:
            reader = pa.ipc.open_file(source, options=options)
            for n in range(reader.num_record_batches):
                yield reader.get_batch(n)[name]


def _merge(table: Table, parts: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the columns; returns the metadata."""
    records = _Parts(parts)
    total = sum(records.counts)
    if not total:
        raise UserError(f"{table.name}: no records; expected at least one")
    _write_strings(out, "names", records.column("name"))
    for name in ("offset", "size"):
        columns.write(out, name, map(np.asarray, records.column(name)))
    columns.write(out, "groups", _numbers(0, total + 1))
    columns.write(out, "attribute", _zeros(total))
    _write_texts(out, records)
    _write_problems(out, records)
    meta = {
        "version": VERSION,
        "source": table.name,
        "root": table.root,
        "records": total,
        "content": _digest(out),
        "several": _several(columns.find_strings(out, "names")),
        "shards": [[shard.file, count] for shard, count in zip(table.shards, records.counts, strict=True)],
    }
    columns.write(out, "checksum", map(np.asarray, records.column("checksum")))
    checksums = {name: checksum for name, checksum in once.checksums(out).items() if name != "bad.jsonl"}
    return meta | {"xxh3": checksums}


def _several(image_ids: Sequence[str]) -> dict[str, Any]:
    """How many images have several records, and an example; empty if none has."""
    hash_N = np.fromiter(map(hash, image_ids), np.int64, len(image_ids))  # 8 bytes each, unlike the names
    hash_N.sort()
    several = set(hash_N[1:][hash_N[1:] == hash_N[:-1]].tolist())
    example = next((image for image in image_ids if several and hash(image) in several), None)
    return {"images": len(several), "example": example} if several else {}


def _numbers(start: int, stop: int) -> Iterator[np.ndarray]:
    """The numbers from ``start`` to ``stop - 1``, in chunks."""
    for first in range(start, stop, _CHUNK):
        yield np.arange(first, min(first + _CHUNK, stop), dtype=np.int32)


def _zeros(count: int) -> Iterator[np.ndarray]:
    yield np.zeros(0, bool)  # sets the dtype even if there are none
    yield from (np.zeros(len(chunk), bool) for chunk in _numbers(0, count))


def _write_strings(out: Path, name: str, chunks: Iterable[pa.StringArray]) -> None:
    lengths = []

    def data() -> Iterator[np.ndarray]:
        yield np.empty(0, np.uint8)
        for strings in chunks:
            lengths.append(pc.binary_length(strings).to_numpy())
            yield _bytes_of(strings)

    columns.write(out, name, data())
    columns.write_starts(out, f"{name}_starts", lengths)


def _bytes_of(strings: pa.StringArray) -> np.ndarray:
    """The UTF-8 bytes of all strings."""
    _, starts, data = strings.buffers()
    if data is None:
        return np.empty(0, np.uint8)
    start, stop = np.frombuffer(starts, np.int32)[[strings.offset, strings.offset + len(strings)]]
    return np.frombuffer(data, np.uint8)[start:stop]


def _write_texts(out: Path, records: _Parts) -> None:
    """Writes captions, texts and facts. Equal captions become one text, asserting what any of them does, only if there
    are facts: finding them needs memory for all texts."""
    first = 0
    for side in _SIDES:
        lengths = records.lengths(side)
        columns.write_starts(out, f"{side}_starts", lengths)
        columns.write(out, f"{side}_pair", map(_positions, lengths))
        count = sum(int(chunk.sum()) for chunk in lengths)
        columns.write(out, f"{side}_simple", _zeros(count))
        columns.write(out, f"{side}_text", _numbers(first, first + count))
        first += count
    captions = (lists.flatten() for side in _SIDES for lists in records.column(side))
    claims = {name: _claims(records, name) for name in ("asserts", "negative_asserts", "shows")}
    if any(len(facts) for facts, _ in claims.values()):
        _write_facts(out, records, claims, pa.chunked_array(list(captions), pa.string()))
        return
    _write_strings(out, "texts", captions)
    _write_strings(out, "facts", [])
    for name, rows in (("asserts", first), ("shows", sum(records.counts))):
        _write_ragged(out, name, np.empty(0, np.int64), np.empty(0, np.int64), rows)


def _claims(records: _Parts, name: str) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The known facts in a column, and the position of each among all of the column's strings."""
    facts, places, first = [], [np.empty(0, np.int64)], 0
    for lists in records.column(name):
        flat = lists.flatten()
        known = np.flatnonzero(pc.not_equal(flat, ""))
        if len(known):
            facts.append(flat.take(pa.array(known)))
            places.append(first + known)
        first += len(flat)
    return pa.chunked_array(facts, pa.string()), np.concatenate(places)


def _write_facts(
    out: Path, records: _Parts, claims: Mapping[str, tuple[pa.ChunkedArray, np.ndarray]], captions: pa.ChunkedArray
) -> None:
    """Writes texts and facts, and which facts each text asserts and each image shows."""
    text_C, texts = _distinct(captions)
    fact_K, facts = _distinct(pa.chunked_array([chunk for of_name, _ in claims.values() for chunk in of_name.chunks]))
    _write_strings(out, "texts", texts.chunks)
    _write_strings(out, "facts", facts.chunks)
    starts = columns.find(out, "positives_starts")
    for side, numbers in zip(_SIDES, np.split(text_C, [starts[-1]]), strict=True):
        columns.write(out, f"{side}_text", [numbers])
    asserts, negative_asserts, shows = (places for _, places in claims.values())
    caption_K = np.concatenate([asserts, starts[-1] + negative_asserts])
    _write_ragged(out, "asserts", text_C[caption_K], fact_K[: len(caption_K)], len(texts))
    shown = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(records.lengths("shows")))])
    image_K = np.concatenate([np.searchsorted(of, at, "right") - 1 for of, at in ((starts, asserts), (shown, shows))])
    of_image = np.concatenate([fact_K[: len(asserts)], fact_K[len(caption_K) :]])
    _write_ragged(out, "shows", image_K, of_image, sum(records.counts))


def _positions(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of the lengths: the number of each caption in its record, and of its pair."""
    ends = np.cumsum(lengths)
    return (np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)).astype(np.uint16)


def _distinct(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
    """The index of each string among the distinct ones, in order of first use, and the distinct strings."""
    encoded = column.dictionary_encode().unify_dictionaries()
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return numbers, pa.chunked_array([encoded.chunk(0).dictionary])


def _write_ragged(out: Path, name: str, row: np.ndarray, value: np.ndarray, rows: int) -> None:
    """Writes each row's distinct values, in ascending order."""
    most = int(value.max(initial=0)) + 1
    row, value = np.divmod(np.unique(row.astype(np.int64) * most + value), most)
    lengths = []
    for chunk in _numbers(0, rows):
        first, stop = np.searchsorted(row, [chunk[0], chunk[-1] + 1])
        lengths.append(np.bincount(row[first:stop] - chunk[0], minlength=len(chunk)).astype(np.int32))
    columns.write_starts(out, f"{name}_starts", lengths)
    columns.write(out, f"{name}_values", [value.astype(np.int32)])


def _write_problems(out: Path, records: _Parts) -> None:
    """Writes ``problems.jsonl``: the records that cannot be used."""
    with (out / "problems.jsonl").open("w") as file:
        first = 0
        for names, problems in zip(records.column("name"), records.column("problem"), strict=True):
            is_bad = pc.not_equal(problems, "")
            numbers = (first + pc.indices_nonzero(is_bad).to_numpy().astype(np.int64)).tolist()
            bad = zip(numbers, names.filter(is_bad).to_pylist(), problems.filter(is_bad).to_pylist(), strict=True)
            file.writelines(json.dumps({"record": n, "name": name, "reason": why}) + "\n" for n, name, why in bad)
            first += len(names)


def _digest(folder: Path) -> str:
    """Digest of the records' names, captions and facts, regardless of the times of their files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in once.files_in(folder):
        if path.name in ("bad.jsonl", "checksum.uint64"):  # of an index that is made again
            continue
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
