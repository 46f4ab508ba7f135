"""Reads the benchmarks' official files: every record is checked, every fault named, no path leaves its folder."""

import contextlib
import contextvars
import functools
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import constants

from naturel_jax.benchmarks.benchmark import Box, Image
from naturel_jax.data.items.index import read_file
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import (
    LONGEST_TEXT,
    check_regular,
    dict_rows,
    is_unicode,
    open_zip,
    parse_json,
    python_strings,
    reading_csv,
    unique_keys,
    unzip,
    version_of,
)
from tfds_naturel.common.photos import MAX_PIXELS

MAX_IMAGE_BYTES = 64 << 20  # a larger member of an archive is refused before it is unpacked
_MORE_THAN_ARCHIVE = 1 << 18  # bytes that one may have more than the archive: its pixels are limited by its bytes

MOST_BAD = 500_000  # records of a benchmark that are reported and left out
MAX_ID = 1000  # characters of an id, which EqBen's files make of all keys above a record

T = TypeVar("T")
Record = dict[str, Any]
Fields = Mapping[str, type | tuple[type, ...]]  # field -> the types it may have

NUMBER = (int, float)


class BenchmarkError(UserError):
    """A benchmark's file, or a record in it, is not in the official format."""


_READ: contextvars.ContextVar[set[Path] | None] = contextvars.ContextVar("read", default=None)


@contextlib.contextmanager
def annotations_only() -> Iterator[set[Path]]:
    """Inside, benchmarks are read whose images are missing: their captions are there, their images cannot be opened.
    Yields the annotation files that are read."""
    found = set[Path]()
    token = _READ.set(found)
    try:
        yield found
    finally:
        _READ.reset(token)


def note(path: Path) -> Path:
    """``path``, which is noted as an annotation file that is read."""
    if (found := _READ.get()) is not None:
        found.add(path)
    return path


def load_json(path: Path, kind: type) -> Any:
    """The JSON in ``path``, of type ``kind``. Raises FileNotFoundError and BenchmarkError (broken JSON, another
    type, a duplicate key).
    """
    data = _parse(path, _bytes(path))
    if not isinstance(data, kind):
        raise BenchmarkError(f"{path}: holds a {type(data).__name__}; the official file is a JSON {kind.__name__}")
    return data


def load_json_lines(path: Path) -> Iterator[Any]:
    """The JSON value in each line of ``path``. Raises what ``load_json`` raises, naming the line."""
    lines = enumerate(io.BytesIO(_bytes(path)), 1)
    return (_parse(f"{path} line {n}", line) for n, line in lines if line.strip())


def load_csv(path: Path) -> Iterator[Record]:
    """The rows of a CSV file under a line of column names; all values are strings. Raises FileNotFoundError, and
    UserError for a file that is none, or with a row of more cells than names."""
    try:
        with reading_csv(path), note(path).open(encoding="utf-8-sig", newline="") as file:
            yield from dict_rows(file)[1]
    except FileNotFoundError:
        raise not_found(path) from None


MORE = "; `python -m naturel_jax.benchmarks` says where to get it"


def not_found(path: Path, what: str = "not found") -> FileNotFoundError:
    """The error for a file that the user has to provide."""
    return FileNotFoundError(f"{path}: {what}{MORE}")


def _bytes(path: Path) -> bytes:
    try:
        check_regular(path)
        return note(path).read_bytes()
    except FileNotFoundError:
        raise not_found(path) from None


def _parse(where: Path | str, data: bytes) -> Any:
    try:
        return parse_json(data.decode(), object_pairs_hook=unique_keys)
    except ValueError as error:
        raise BenchmarkError(f"{where}: broken JSON ({error}); download the file again") from error


def numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(id, record) of records that are identified by their index."""
    return ((str(n), row) for n, row in enumerate(rows))


def report(problems: list[str], problem: str) -> None:
    """Adds a problem. Raises BenchmarkError for one more than ``MOST_BAD``: they would fill the memory."""
    if len(problems) == MOST_BAD:
        raise BenchmarkError(
            f"more than {MOST_BAD:,} records are bad, the first: {problems[0]}; download the file again"
        )
    problems.append(problem)


def records(
    file: str, rows: Iterable[tuple[str, Any]], fields: Fields, problems: list[str]
) -> Iterator[tuple[str, Record]]:
    """The (id, record) of ``rows`` with a new id and every field of the right type; the others are reported in
    ``problems``.
    """
    seen = set()
    for key, row in rows:
        fault: str | None
        if len(key) > MAX_ID:  # and may be that of many
            key, fault = key[:80], f"its id has {len(key):,} characters, more than {MAX_ID}"
        else:
            fault = _fault(row, fields) if key not in seen else "its id appears twice; the first is kept"
        if not key.isprintable():
            key, fault = ascii(key), "its id has characters that cannot be printed"
        if fault:
            report(problems, f"{file} record {key:.80}: {fault}")
        else:
            seen.add(key)
            yield key, row


def read_items(
    file: str,
    rows: Iterable[tuple[str, Any]],
    fields: Fields,
    make: Callable[[str, Record], T | None],
    problems: list[str],
) -> list[T]:
    """``make(id, record)`` for each of ``records(...)``, except where it returns None. A record for which it raises
    BenchmarkError is reported in ``problems``.
    """
    items = []
    for key, row in records(file, rows, fields, problems):
        try:
            item = make(key, row)
        except BenchmarkError as error:
            report(problems, f"{file} record {key:.80}: {error}")
            continue
        if item is not None:
            items.append(item)
    return items


def _fault(row: Any, fields: Fields) -> str | None:
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}, expected an object with fields {', '.join(fields)}"
    for name, kind in fields.items():
        if name not in row:
            return f"has no field {name!r}"
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            return f"field {name!r} is {row[name]!r:.80}, expected {expected}"
        if wrong := unusable(row[name]):
            return f"field {name!r} is {row[name]!a:.80}, which {wrong}"
    return None


def unusable(value: Any) -> str:
    """What is wrong with a text, or with one of a list, for a tokenizer; "" if nothing is."""
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and len(text) > LONGEST_TEXT for text in texts):
        return f"has more than {LONGEST_TEXT:,} characters"
    return "" if is_unicode(value) else "is not valid Unicode"


def strings(name: str, text: str) -> tuple[str, ...]:
    """The strings in a cell with a Python list of them, at least one, or with a set, as in some of CREPE's. Raises
    BenchmarkError. ``name``: its field.
    """
    if not (listed := python_strings(text)):
        raise BenchmarkError(f"field {name!r} is {text!a:.80}, expected a Python list of strings")
    if wrong := unusable(listed):
        raise BenchmarkError(f"field {name!r} is {text!a:.80}, which {wrong}")
    return tuple(listed)


def crop(x: float, y: float, w: float, h: float) -> Box:
    """The box of a left upper corner, a width and a height in pixels, rounded as PIL rounds it. Raises BenchmarkError
    for one that no image has."""
    if not (abs(x) < MAX_PIXELS and abs(y) < MAX_PIXELS and 0 <= w * h < MAX_PIXELS):  # refuses NaN too
        raise BenchmarkError(f"box of x {x}, y {y}, width {w}, height {h} is not one of an image")
    return round(x), round(y), round(x + w), round(y + h)


def require_strings(path: Path, rows: dict[str, Any] | list[Any], *fields: str) -> list[Record]:
    """The records of ``path``. Raises BenchmarkError naming the first with a field that is not a string."""
    problems: list[str] = []
    keyed = rows.items() if isinstance(rows, dict) else numbered(rows)
    valid = [row for _, row in records(str(path), keyed, dict.fromkeys(fields, str), problems)]
    if problems:
        raise BenchmarkError(f"{problems[0]}; move the file away to download it again")
    return valid


def safe_name(name: str) -> str:
    """``name``, if it stays in its folder. Raises BenchmarkError otherwise."""
    path = PurePosixPath(name)
    hostile = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
    if hostile or not path.parts or ":" in path.parts[0]:
        raise BenchmarkError(f"image path {name!r:.80} leaves its folder and is refused")
    return str(path)


def check_inside(path: Path, root: Path) -> Path:
    """``path``. Raises BenchmarkError if it is a link out of ``root`` other than one to the hub's cache, which
    downloads make."""
    target = path.resolve()
    if not target.is_relative_to(root.resolve()) and not target.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        raise BenchmarkError(f"image {path} is a link out of {root}; copy it, or make {root} itself the link")
    return path


class Folder:
    """Images that are files in a folder, which may itself be a link. ``collection``: the public collection (its name in
    ``identity.of_name``) after whose images the files are named, as in ``2331508.jpg``."""

    def __init__(self, root: Path, collection: str = ""):
        self.root, self._collection = root, collection
        self._version: dict[str, str] = {}  # "": there is no such file

    def image(self, name: str, box: Box | None = None) -> Image:
        """The image ``name``. Raises BenchmarkError if it is missing, or if its path or a link leaves the folder."""
        path = self.root / safe_name(name)
        read = functools.partial(read_file, str(path))
        if _READ.get() is not None:
            return Image(str(path), read, box)
        if name not in self._version:
            try:
                self._version[name] = version_of(path) if check_inside(path, self.root).is_file() else ""
            except (OSError, RuntimeError) as error:  # the name is too long, or links form a circle
                reason = error.strerror if isinstance(error, OSError) else error
                raise BenchmarkError(f"image {name!r:.80}: {reason}") from error
        if not self._version[name]:
            raise BenchmarkError(f"image {name!r:.80} is not in {self.root}")
        names = (f"{self._collection}:{path.stem}",) if self._collection else ()
        return Image(str(path), read, box, names, self._version[name])


class Archive:
    """Images in a zip file, looked up by file name alone (official archives differ in their folders)."""

    def __init__(self, path: Path):
        self.path = path
        if _READ.get() is not None:
            return
        try:
            self._zip = open_zip(path)
        except FileNotFoundError:
            raise not_found(path) from None
        except zipfile.BadZipFile as error:
            raise BenchmarkError(f"{path}: not a readable zip file ({error}); download it again") from error
        self._largest = min(MAX_IMAGE_BYTES, _MORE_THAN_ARCHIVE + path.stat().st_size)
        self._members, self._several = dict[str, zipfile.ZipInfo](), set[str]()
        for info in self._zip.infolist():
            if not info.is_dir() and not info.filename.startswith("__MACOSX/"):
                name = PurePosixPath(info.filename).name
                if self._members.setdefault(name, info).CRC != info.CRC:
                    self._several.add(name)

    def image(self, name: str) -> Image:
        """The image ``name``. Raises BenchmarkError if it is missing, is another in each of several folders, or unpacks
        to more than ``MAX_IMAGE_BYTES``, or than the archive has."""
        if _READ.get() is not None:
            return Image(f"{self.path}!{safe_name(name)}", self.path.read_bytes)
        name = safe_name(name)
        info = self._members.get(name)
        if info is None:
            raise BenchmarkError(f"image {name!r:.80} is not in {self.path}")
        if name in self._several:
            raise BenchmarkError(f"several images {name!r:.80}, which differ, are in {self.path}; keep the right one")
        if info.file_size > self._largest:
            raise BenchmarkError(f"image {name!r} in {self.path}: unpacks to {info.file_size:,} bytes; refused")
        version = f"{info.file_size} {info.CRC:08x}"
        return Image(f"{self.path}!{info.filename}", lambda: self._read(info), version=version)

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        try:
            return unzip(self._zip, info)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{self.path}, member {info.filename}: {error}") from error
