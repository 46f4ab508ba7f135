"""Reading benchmarks' official files: every record is checked, what is wrong is named, and no path leaves its
folder.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from naturel_jax.benchmarks.benchmark import Box, Image

MAX_IMAGE_BYTES = 64 << 20  # a larger member of an archive is refused before it is unpacked

Number = (int, float)


class BenchmarkError(ValueError):
    """A benchmark's file, or a record of it, is not in the official format."""


def load_json(path: Path, kind: type) -> Any:
    """The JSON in ``path``, of type ``kind``. Raises FileNotFoundError and BenchmarkError (broken, of another type, a
    key twice).
    """

    def unique(pairs):
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise BenchmarkError(f"{path}: key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
        return dict(pairs)

    data = _parse(path, _bytes(path), lambda text: json.loads(text, object_pairs_hook=unique))
    if not isinstance(data, kind):
        raise BenchmarkError(f"{path}: holds a {type(data).__name__}; the official file is a JSON {kind.__name__}")
    return data


def load_json_lines(path: Path) -> list[Any]:
    """One JSON value per line of ``path``. Raises as ``load_json``, naming the line."""
    lines = _bytes(path).splitlines()
    return [_parse(f"{path} line {n}", line, json.loads) for n, line in enumerate(lines, 1) if line.strip()]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not found; `python -m naturel_jax.benchmarks` says where to get it") from None


def _parse(where: Any, data: bytes, parser: Callable[[str], Any]) -> Any:
    try:
        return parser(data.decode())
    except BenchmarkError:
        raise
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{where}: broken JSON ({error}); download the file again") from error


def records(
    file: str, rows: Iterable[tuple[str, Any]], fields: Mapping[str, type | tuple], problems: list[str]
) -> Iterator[tuple[str, dict]]:
    """The (id, record) of ``rows`` that have every field with its type and an id not seen before; the others are
    named in ``problems``.
    """
    seen = set()
    for key, row in rows:
        fault = _fault(row, fields) if key not in seen else "its id appears twice; the first is kept"
        if fault:
            problems.append(f"{file} record {key}: {fault}")
        else:
            seen.add(key)
            yield key, row


def _fault(row: Any, fields: Mapping[str, type | tuple]) -> str | None:
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}, expected an object with fields {', '.join(fields)}"
    for name, kind in fields.items():
        if name not in row:
            return f"has no field {name!r}"
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            return f"field {name!r} is {row[name]!r:.80}, expected {expected}"
    return None


def safe_name(name: str) -> str:
    """``name`` when it stays in its folder, else BenchmarkError."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise BenchmarkError(f"image path {name!r} leaves its folder and is refused")
    return str(path)


class Folder:
    """Images that are files of a folder."""

    def __init__(self, root: Path):
        self.root = root
        self._present: dict[str, bool] = {}

    def image(self, name: str, box: Box | None = None) -> Image:
        """The image ``name``. Raises BenchmarkError when it is not there or its path leaves the folder."""
        path = self.root / safe_name(name)
        if name not in self._present:
            self._present[name] = path.is_file()
        if not self._present[name]:
            raise BenchmarkError(f"image {name!r} is not in {self.root}")
        return Image(str(path), path.read_bytes, box)


class Archive:
    """Images that are members of a zip file, found by their last name (official archives differ in folders)."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: not found; `python -m naturel_jax.benchmarks` says where to get it"
            ) from None
        except zipfile.BadZipFile as error:
            raise BenchmarkError(f"{path}: not a readable zip file ({error}); download it again") from error
        self.path = path
        self._members = {
            PurePosixPath(info.filename).name: info
            for info in self._zip.infolist()
            if not info.is_dir() and not info.filename.startswith("__MACOSX/")
        }

    def image(self, name: str) -> Image:
        """The image ``name``. Raises BenchmarkError when it is not there or unpacks to more than
        ``MAX_IMAGE_BYTES``.
        """
        info = self._members.get(safe_name(name))
        if info is None:
            raise BenchmarkError(f"image {name!r} is not in {self.path}")
        if info.file_size > MAX_IMAGE_BYTES:
            raise BenchmarkError(f"image {name!r} of {self.path}: {info.file_size:,} bytes, refused")
        return Image(f"{self.path}!{info.filename}", lambda: self._read(info))

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{self.path}, member {info.filename}: {error}") from error
