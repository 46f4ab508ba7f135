"""Parquet and Arrow files from elsewhere, which can unpack to millions of times their size: pages, dictionaries and
compressed buffers are measured before they are unpacked, and rows before they are used."""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular

# What a file of N bytes may have, as (a, b) for a + b * N.
_AT_ONCE = (16 << 20, 10)  # bytes that are unpacked together: a page, the rows of a batch
_ALL = (256 << 20, 100)  # bytes of all batches, if one is in memory at a time
_LONGEST = (1 << 18, 1)  # bytes of a value: an image is larger than what it is packed in only if it is filled up
_KEPT = (32 << 20, 20)  # bytes of all batches, if all are kept
_ROWS = (25_000, 1 / 8)
_VALUES = (2_000_000, 8)
_COLUMNS = (0, 2)  # bytes of columns, which can be in one place
_LISTED = (500_000, 1 / 2)  # values of lists in a row group: one row may have them all
_FOOTER = (1 << 18, 1 / 8)  # bytes of a Parquet file's schema and row groups: Arrow makes up to 200 of each

_VALUE = 16  # bytes that a value counts for, beside its own
_CHUNK = 1 << 16  # bytes read for the header of a page
_LONGEST_HEADER = 1 << 24
_DICTIONARY_CODED = (2, 8)  # encodings
_DELTA_BYTE_ARRAY = 7  # a value is written as what it shares with the one before, and the rest
_CODECS = ("", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw")
_I16, _I32, _I64, _LIST, _STRUCT = 4, 5, 6, 9, 12  # types of the compact protocol
_BITS = {_I16: 16, _I32: 32, _I64: 64}  # of a number, of which Arrow drops any others
_DATA, _DICTIONARY, _DATA_V2 = (5, _STRUCT), (7, _STRUCT), (8, _STRUCT)
_PAGES = {0: _DATA, 2: _DICTIONARY, 3: _DATA_V2}  # type of a page -> the field that Arrow reads of its header
_PADDING = 100  # bytes behind a column that Arrow reads, too, in files of old writers


class _Limits:
    """The limits of a file, and what was counted."""

    def __init__(self, name: object, size: int):
        self._name, self._size = name, size
        self._counted: dict[str, float] = {}

    def exceeded(self, amount: float, limit: tuple[float, float]) -> bool:
        """Whether ``amount`` is more than a file of this size may have."""
        return amount > limit[0] + limit[1] * self._size

    def check(self, what: str, amount: float, limit: tuple[float, float]) -> None:
        """Raises UserError for too much of ``what``."""
        if self.exceeded(amount, limit):
            raise UserError(
                f"{self._name}: its {self._size:,} bytes unpack to {amount:,.0f} {what}; the limit for so many bytes "
                f"is {limit[0] + limit[1] * self._size:,.0f}"
            )

    def add(self, what: str, amount: float, limit: tuple[float, float]) -> None:
        """Counts ``amount``. Raises UserError for too much of ``what``."""
        self._counted[what] = self._counted.get(what, 0) + amount
        self.check(what, self._counted[what], limit)


def parquet_schema(path: os.PathLike[str]) -> pa.Schema:
    """The schema of a Parquet file. Raises UserError for one of too many columns for a file of this size, and pyarrow's
    errors for a damaged file."""
    check_regular(Path(path))
    with open(path, "rb") as file:
        _check_footer(_Limits(path, os.fstat(file.fileno()).st_size), file)
        return pq.read_schema(file)


def _check_footer(limits: _Limits, file: BinaryIO) -> None:
    """Raises UserError for a footer that is too large; its length is in the last eight bytes. Rewinds the file."""
    file.seek(-min(8, file.seek(0, os.SEEK_END)), os.SEEK_END)
    length, magic = file.read(4), file.read()
    if magic == b"PAR1":  # others are refused by Arrow
        limits.check("bytes of columns and row groups", int.from_bytes(length, "little"), _FOOTER)
    file.seek(0)


def parquet_batches(
    path: os.PathLike[str], rows: int, columns: Sequence[str] | None = None, kept: bool = False, known_rows: int = 0
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, ``rows`` at a time, of ``columns`` that it has (None: all); strings may be read as
    dictionaries. ``kept``: the caller keeps all rows in memory. ``known_rows``: how many another file has, too; each
    counts as bytes of this one, in which names may take few.

    Raises UserError before a page, dictionary or batch is unpacked that is too large for a file of this size, and
    pyarrow's errors for a damaged file.
    """
    check_regular(Path(path))
    with open(path, "rb") as file:
        limits = _Limits(path, os.fstat(file.fileno()).st_size + int(known_rows / _ROWS[1]))
        yield from _batches(limits, file, rows, columns, kept)


def _batches(
    limits: _Limits, file: BinaryIO, rows: int, columns: Sequence[str] | None, kept: bool
) -> Iterator[pa.RecordBatch]:
    _check_footer(limits, file)
    groups = _row_groups(file)
    metadata = pq.read_metadata(file)
    limits.check("rows", metadata.num_rows, _ROWS)
    for group, chunks in enumerate(groups):
        if len(chunks) != metadata.num_columns:
            raise pa.ArrowInvalid(f"a row group has {len(chunks)} columns; the schema has {metadata.num_columns}")
        limits.add("bytes of columns", sum(chunk.end - _PADDING - chunk.start for chunk in chunks), _COLUMNS)
        names, listed, paged = [], 0, 0
        for column, chunk in enumerate(chunks):
            description = metadata.schema.column(column)
            values, pages, dictionary = _check_chunk(limits, file, chunk, description)
            names += [description.path] if dictionary else []
            listed += values if description.max_repetition_level else 0
            paged += pages
            limits.check("values of lists", listed, _LISTED)
            limits.check("bytes of pages at once", paged, _AT_ONCE)
        file.seek(0)
        opened = pq.ParquetFile(file, metadata=metadata, read_dictionary=names, page_checksum_verification=True)
        for batch in opened.iter_batches(rows, [group], None if columns is None else list(columns)):
            check_batch(limits, batch, kept)
            yield batch


def check_batch(limits: _Limits, batch: pa.RecordBatch, kept: bool) -> None:
    """Counts the rows and values of a batch. Raises UserError for too many."""
    sizes = list(map(unpacked, batch.columns))
    size = sum(size.all for size in sizes)
    limits.add("rows", batch.num_rows, _ROWS)
    limits.check("bytes at once", size, _AT_ONCE)
    limits.check("bytes of one value", max((size.longest for size in sizes), default=0), _LONGEST)
    limits.add("bytes", size, _KEPT if kept else _ALL)


class Unpacked(NamedTuple):
    """About how many bytes values have, each by itself, and the longest of those of strings and the like."""

    all: int
    longest: int = 0


def unpacked(array: pa.Array) -> Unpacked:
    """What the values of ``array`` unpack to. Raises pa.ArrowNotImplementedError for types whose values may be in one
    place, views and runs."""
    kind, own = array.type, _VALUE * len(array)
    lengths, inner = None, list[pa.Array]()
    if pa.types.is_dictionary(kind) and _has_length(kind.value_type):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
    elif _has_length(kind):
        lengths = pc.binary_length(array)
    elif pa.types.is_struct(kind):
        inner = array.flatten()
    elif pa.types.is_map(kind):
        inner = [array.keys, array.items]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = [array.flatten()]
    elif pa.types.is_dictionary(kind):
        kind = kind.value_type
    if lengths is not None:
        return Unpacked(own + (pc.sum(lengths).as_py() or 0), pc.max(lengths).as_py() or 0)
    if inner:
        sizes = list(map(unpacked, inner))
        return Unpacked(own + sum(size.all for size in sizes), max(size.longest for size in sizes))
    if pa.types.is_primitive(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind) or pa.types.is_struct(kind):
        return Unpacked(own)
    raise pa.ArrowNotImplementedError(f"a column has the type {kind}, which is not read")


def _has_length(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string", "binary", "large_binary") or pa.types.is_fixed_size_binary(kind)


# ---- Pages of a Parquet file -----------------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    """A column of a row group: its number of values, where its pages begin and end, and how they are compressed."""

    values: int
    start: int
    end: int
    codec: str


def _row_groups(file: BinaryIO) -> list[list[_Chunk]]:
    """The columns of each row group, from a footer that ``_check_footer`` has let pass. pyarrow ends the process when
    it is asked for a column whose statistics contradict the schema. Raises pa.ArrowInvalid for a damaged footer.
    Rewinds the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(size - 8 - length, 0))
    data = file.read(length)
    file.seek(0)
    try:
        footer, _ = _read_struct(data, 0, lists=True)
        return [[_chunk(column[3, _STRUCT]) for column in group[1, _LIST]] for group in footer[4, _LIST]]
    except (LookupError, TypeError) as error:
        raise pa.ArrowInvalid("the footer is cut, or lacks a field") from error


def _chunk(fields: dict[tuple[int, int], Any]) -> _Chunk:
    pages, dictionary = fields[9, _I64], fields.get((11, _I64))
    if (start := min(dictionary or pages, pages)) < 0:
        raise pa.ArrowInvalid("the pages of a column are before the file")
    return _Chunk(fields[5, _I64], start, start + fields[7, _I64] + _PADDING, _CODECS[fields[4, _I32]])


def _check_chunk(limits: _Limits, file: BinaryIO, chunk: _Chunk, description: pq.ColumnSchema) -> tuple[int, int, bool]:
    """The number of values of a column of a row group, the bytes of its dictionary and its largest page, and whether it
    has to be read as a dictionary, since its strings might be too large without. Raises UserError for a page or
    dictionary that unpacks to too much, pa.ArrowInvalid for a header that is not readable."""
    place, seen, coded, largest = chunk.start, 0, 0, 0
    width = description.length  # bytes of each value, if that is fixed
    dictionary: tuple[int, int, int] | None = None
    while place < chunk.end and seen < chunk.values:
        header, length = _page_header(file, place)
        size, packed = header.get((2, _I32), -1), header.get((3, _I32), -1)
        if min(size, packed) < 0:
            raise pa.ArrowInvalid("a page without a size")
        described = _PAGES.get(header.get((1, _I32), -1))
        if header.keys() & {*_PAGES.values()} != {described} - {None}:
            raise pa.ArrowInvalid("a page is described as one of another type")
        limits.check("bytes of one page", size, _AT_ONCE)
        if page := header.get(_DATA) or header.get(_DATA_V2):
            values, encoding = max(page.get((1, _I32), 0), 0), page.get((2, _I32) if _DATA in header else (4, _I32))
            seen += values
            limits.add("values", values, _VALUES)
            limits.check("bytes of one page", values * (size if encoding == _DELTA_BYTE_ARRAY else width), _AT_ONCE)
            coded += values if encoding in _DICTIONARY_CODED else 0
            largest = max(largest, size)
        if _DICTIONARY in header:
            dictionary = (place + length, packed, size)
        place += length + packed
    if dictionary is None:
        return seen, largest, False
    largest += dictionary[2]
    if description.physical_type != "BYTE_ARRAY" or not limits.exceeded(coded * dictionary[2], _AT_ONCE):
        return seen, largest, False
    if coded == seen:
        return seen, largest, True
    limits.check("bytes of one dictionary's values", coded * _longest(file, chunk.codec, *dictionary), _AT_ONCE)
    return seen, largest, False


def _longest(file: BinaryIO, codec: str, place: int, packed: int, size: int) -> int:
    """Bytes of the longest string of a dictionary page."""
    file.seek(place)
    data = file.read(packed)
    if codec:
        data = pa.Codec(codec).decompress(data, size).to_pybytes()
    longest, place = 0, 0
    while place + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, place)
        longest, place = max(longest, length), place + 4 + length
    return longest


def _page_header(file: BinaryIO, place: int) -> tuple[dict[tuple[int, int], Any], int]:
    """The fields of the page header at ``place``, and its size in bytes."""
    size = _CHUNK
    while True:
        file.seek(place)
        data = file.read(size)
        try:
            return _read_struct(data, 0)
        except IndexError as error:
            if len(data) < size or size >= _LONGEST_HEADER:
                raise pa.ArrowInvalid("a page header does not end") from error
            size *= 16


def _read_struct(
    data: bytes, place: int, depth: int = 0, lists: bool = False
) -> tuple[dict[tuple[int, int], Any], int]:
    """(field, type) -> value of a struct in Thrift's compact protocol, and where it ends. Only whole numbers, structs
    and, if there may be ``lists``, these have a value. Raises IndexError if it is cut, pa.ArrowInvalid if it is
    malformed."""
    fields: dict[tuple[int, int], Any] = {}
    number = 0
    while head := data[place]:
        place += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_number(data, place, _I16)
        value, place = _read_value(data, place, kind, depth, lists)
        if (number, kind) in fields or number >> 15 > 0:  # beyond 16 bits, Arrow begins with the negative ones
            raise pa.ArrowInvalid("a header has a field twice, or one of a number that is too large")
        fields[number, kind] = value
    return fields, place + 1


def _read_value(data: bytes, place: int, kind: int, depth: int, lists: bool) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false
        return None, place
    if kind in _BITS:
        return _read_number(data, place, kind)
    if kind == _STRUCT and depth < 8:
        return _read_struct(data, place, depth + 1, lists)
    if kind == _LIST and lists and depth < 8:
        return _read_list(data, place, depth + 1)
    if kind == 3:
        return data[place], place + 1
    if kind == 7:
        return data[place + 7], place + 8
    if kind == 8:
        length, place = _read_varint(data, place)
        return length and data[place + length - 1], place + length
    raise pa.ArrowInvalid(f"a header has a value of type {kind}")


def _read_list(data: bytes, place: int, depth: int) -> tuple[list[Any], int]:
    size, kind, place = data[place] >> 4, data[place] & 15, place + 1
    if size == 15:
        size, place = _read_varint(data, place)
    values = []
    for _ in range(size):
        value, place = _read_value(data, place, 3 if kind in (1, 2) else kind, depth, lists=True)
        values.append(value)
    return values, place


def _read_number(data: bytes, place: int, kind: int) -> tuple[int, int]:
    value, place = _read_varint(data, place)
    if value >> _BITS[kind]:
        raise pa.ArrowInvalid("a header has a number that is too large for its type")
    return (value >> 1) ^ -(value & 1), place


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            return value, place
    raise pa.ArrowInvalid("a header has a number that does not end")


# ---- Arrow streams ---------------------------------------------------------------------------------------------------


def stream_batches(path: object, mapped: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream, which refer to ``mapped``, its file. Raises UserError before buffers or rows are
    unpacked that are too large for a file of this size, and pyarrow's errors for a damaged file."""
    limits = _Limits(path, mapped.size)
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(mapped)):
        limits.add("bytes of compressed buffers", _compressed(message), _AT_ONCE)
    for batch in pa.ipc.open_stream(pa.BufferReader(mapped)):
        limits.add("bytes of batches and their dictionaries", batch.get_total_buffer_size(), _ALL)
        size = sum(buffer.size for column in batch.columns for buffer in column.buffers() if buffer)
        limits.check("bytes of columns, which may be in one place", size, _ALL)
        batch.validate(full=True)  # Arrow trusts the offsets in a file; a Parquet reader makes its own
        check_batch(limits, batch, kept=False)
        yield batch


def _compressed(message: pa.ipc.Message) -> int:
    """What the buffers of a message unpack to; 0 if they are not compressed. A compressed buffer begins with its size;
    the places of buffers are in the message's header, a FlatBuffer."""
    data = memoryview(message.metadata)
    try:
        header = _table(data, _offset(data, 0), 2)
        if message.type == "dictionary":
            header = _table(data, header, 1)
        if message.type == "schema" or not _field(data, header, 3):
            return 0
        buffers = _table(data, header, 2)
        (count,) = struct.unpack_from("<I", data, buffers)
        places = [struct.unpack_from("<qq", data, buffers + 4 + 16 * n) for n in range(count)]
        body = memoryview(message.body)
        return sum(max(struct.unpack_from("<q", body, start)[0], 0) for start, length in places if length >= 8)
    except (struct.error, ValueError) as error:
        raise pa.ArrowInvalid(f"a message has no readable header ({error})") from error


def _offset(data: memoryview, place: int) -> int:
    return place + struct.unpack_from("<I", data, place)[0]


def _field(data: memoryview, table: int, field: int) -> int:
    """Where a field of a FlatBuffer's table is; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    (place,) = struct.unpack_from("<H", data, vtable + 4 + 2 * field)
    return place and table + place


def _table(data: memoryview, table: int, field: int) -> int:
    if not (place := _field(data, table, field)):
        raise ValueError(f"field {field} is absent")
    return _offset(data, place)
