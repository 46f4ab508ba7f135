"""``webdataset:SHARDS``: tar files, such as ``shards/{0000..0099}.tar``.

Consecutive members with the same name up to its first dot form a record; the rest of the name is the field. The fields
of a ``json`` member are fields too.
"""

import functools
import glob
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naturel_jax.data.items.records import LARGEST_TEXT, USUAL, BadRecord, Row, Shard, Span, Table, check_split
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json, unique_keys

_TEXT = ("txt", "text", "caption", "json", "cls")  # extensions of members that are read; images are only located
_DAMAGE = (ValueError, LookupError, OverflowError, RecursionError)  # what tarfile raises besides its own errors
_TWICE = "__twice__"  # the field of a row that names another of which there are two
_LONG_NUMBER = re.compile(rb"\d{100}")
_LARGEST_GLOBAL = 1 << 12  # characters of the headers that tarfile adds to those of each member; git's have 52


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The records of the shards, in order. Compressed tar files are rejected: they have no random access."""
    del data_dir
    check_split("a list of shards", split)
    paths = [Path(path).resolve() for pattern in expand(name) for path in sorted(glob.glob(pattern)) or [pattern]]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise UserError(f"webdataset:{name}: {missing[0]} does not exist; paths are relative to where you start")
    if packed := [str(path) for path in paths if path.suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst")]:
        raise UserError(f"webdataset:{name}: {packed[0]} is compressed, so it has no random access; unpack it to .tar")
    if not paths:
        raise UserError(f"webdataset:{name}: names no file; expected the lower number first, as in {{0000..0099}}")
    shards = [Shard(str(path), functools.partial(rows, path)) for path in paths]
    return Table(f"webdataset:{name}", str(paths[0].parent), paths, shards)


def expand(pattern: str) -> list[str]:
    """``a{08..10}`` is a08, a09, a10; ``a{x,y}`` is ax, ay."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not found:
        return [pattern]
    first, last, choices = found.groups()
    values = choices.split(",") if choices else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [whole for value in values for whole in expand(pattern[: found.start()] + value + pattern[found.end() :])]


def rows(path: Path) -> Iterator[Row]:
    """The records of one shard. Raises UserError for a damaged one."""
    row: dict[str, Any] = {}
    whole = path.stat().st_size
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
                if (size := sum(len(key) + len(value) for key, value in tar.pax_headers.items())) > _LARGEST_GLOBAL:
                    raise UserError(
                        f"{path}: has global headers of {size:,} characters; the limit is {_LARGEST_GLOBAL:,}; pack it "
                        "with tar --format=ustar"
                    )
                if member.issparse():
                    raise UserError(f"{path}: {member.name:.80} is a sparse file; pack it with tar without --sparse")
                if not 0 <= member.size <= whole:  # tarfile would go back, and find the same member again and again
                    raise UserError(f"{path}: {member.name:.80} has {member.size:,} bytes; copy the file again")
                if member.isdir():
                    continue
                if not member.isfile():
                    raise UserError(
                        f"{path}: {member.name:.80} is a link or device; pack it with tar --dereference "
                        "--hard-dereference"
                    )
                folder, slash, file = member.name.rpartition("/")
                stem, _, field = file.partition(".")
                key = folder + slash + stem
                if row and row["__key__"] != key:
                    yield _merged(row)
                    row = {}
                row["__key__"] = key
                if (field := field.lower()) in row:
                    row[_TWICE] = field
                else:
                    row[field] = _value(path, tar, member, field)
            _check_end(path, tar.offset)
    except (tarfile.TarError, *_DAMAGE) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable tar file: {error}") from error
    if row:
        yield _merged(row)


class _Member(tarfile.TarInfo):
    """A member whose extended header is checked before tarfile reads it. Up to Python 3.11.9, records that overlap, and
    long numbers, cost the square of their length."""

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        assert tar.fileobj is not None  # it is open
        start, place = tar.fileobj.tell(), 0
        records = tar.fileobj.read(min(self.size, LARGEST_TEXT)).rstrip(b"\0")
        tar.fileobj.seek(start)
        while place < len(records):  # "LENGTH KEY=VALUE\n"
            length, space, _ = records[place : place + 20].partition(b" ")
            end = place + (int(length) if length.isdigit() else 0)
            key, equals, _ = records[place:end].partition(b"=")
            if not (space and equals and len(key) > len(length) and records[end - 1 : end] == b"\n"):
                raise tarfile.HeaderError("an extended header has a record that does not end where it says")
            place = end
        if _LONG_NUMBER.search(records):
            raise tarfile.HeaderError("an extended header has a number of 100 digits")
        return super()._proc_pax(tar)  # type: ignore[misc]


def _check_end(path: Path, offset: int) -> None:
    """Raises UserError unless zeros or nothing follow: at a damaged header, tarfile ends as at the last one."""
    with path.open("rb") as file:
        file.seek(offset)
        if any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b"")):
            raise UserError(f"{path}: no member can be read from byte {offset:,} on, but more follows; copy it again")


def _value(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, field: str) -> Span | bytes:
    if field.rpartition(".")[2] not in _TEXT:
        return Span(member.offset_data, member.size)
    if member.size > LARGEST_TEXT:
        raise UserError(f"{path}: {member.name} has {member.size:,} bytes; the limit of a text is {LARGEST_TEXT:,}")
    file = tar.extractfile(member)
    assert file is not None  # it is a file
    return file.read()


def _merged(row: dict[str, Any]) -> Row:
    """The row with the fields of its ``json`` member added."""
    if _TWICE in row:
        return BadRecord(f"{row['__key__']} has two members {row[_TWICE]!r:.80}")
    if "json" not in row:
        return row
    try:
        inner = parse_json(row["json"], object_pairs_hook=unique_keys)
    except ValueError as error:
        return BadRecord(f"{row['__key__']}.json: not JSON: {error}")
    if not isinstance(inner, dict):
        return row
    # The JSON's file_name is where the image once was; now it is a member.
    fields = {name: value for name, value in inner.items() if name not in USUAL["image"]}
    return {**fields, **row, "json": inner}
