"""Columns on disk that are read on use, so that tens of millions of rows take little memory.

A column is a file of numbers whose suffix is their dtype: ``starts.int32``. Pickled, a column is only its path, so the
pipeline's reading processes share its pages.

Shape letters: N strings; a trailing 1 means one extra entry.
"""

import itertools
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np


class Mapped(np.memmap):
    """A memory-mapped file as an array; pickled as its path."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        if isinstance(self.base, mmap.mmap):
            return mapped, (self.filename,)
        return np.array(self).__reduce__()  # part of a file


def mapped(path: str | os.PathLike[str]) -> np.ndarray:
    """The column in ``path``."""
    dtype = np.dtype(Path(path).suffix[1:])
    if os.path.getsize(path) == 0:  # the system does not map empty files
        return np.empty(0, dtype)
    return Mapped(path, dtype, mode="r")


def find(folder: Path, name: str) -> np.ndarray:
    """The column ``name`` of ``folder``, of any dtype."""
    (path,) = folder.glob(f"{name}.*")
    return mapped(path)


def write(folder: Path, name: str, chunks: Iterable[np.ndarray]) -> None:
    """Writes a column. All chunks have the dtype of the first."""
    path = folder / f"{name}.partial"
    dtype = np.dtype(np.int32)
    with path.open("wb") as file:
        for n, chunk in enumerate(chunks):
            dtype = chunk.dtype if n == 0 else dtype
            np.ascontiguousarray(chunk, dtype).tofile(file)
    path.replace(folder / f"{name}.{dtype.name}")


def write_starts(folder: Path, name: str, lengths: Sequence[np.ndarray]) -> None:
    """Writes the column of starts of rows of these lengths, with one more entry for the end; int32 if it suffices."""
    dtype = np.int32 if sum(int(chunk.sum(dtype=np.int64)) for chunk in lengths) < 2**31 else np.int64

    def starts() -> Iterator[np.ndarray]:
        end = 0
        yield np.zeros(1, dtype)
        for chunk in lengths:
            if len(chunk):
                ends = np.cumsum(chunk, dtype=np.int64) + end
                end = int(ends[-1])
                yield ends.astype(dtype)

    write(folder, name, starts())


def write_strings(folder: Path, name: str, strings: Iterable[str]) -> None:
    """Writes the column of ``strings``, and the column of their starts."""
    encoded = [string.encode() for string in strings]
    write(folder, name, [np.frombuffer(b"".join(encoded), np.uint8)])
    write_starts(folder, f"{name}_starts", [np.fromiter(map(len, encoded), np.int64, len(encoded))])


class Strings(Sequence[str]):
    """The strings of a column: ``path`` has their UTF-8 bytes, and string n starts at ``starts_N1[n]``.

    The bytes are read, not mapped: mapped pages would count as memory of the process until it ends.
    """

    def __init__(self, path: str, starts_N1: np.ndarray):
        self._path, self._starts_N1 = path, starts_N1
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return Strings, (self._path, self._starts_N1)

    def __len__(self) -> int:
        return len(self._starts_N1) - 1

    @overload
    def __getitem__(self, n: int) -> str: ...
    @overload
    def __getitem__(self, n: slice) -> list[str]: ...
    def __getitem__(self, n: int | slice) -> str | list[str]:
        if isinstance(n, slice):
            return [self[k] for k in range(*n.indices(len(self)))]
        n = n + len(self) if n < 0 else n
        if not 0 <= n < len(self):
            raise IndexError(f"string {n} of {len(self)}")
        start, stop = int(self._starts_N1[n]), int(self._starts_N1[n + 1])
        return os.pread(self._file, stop - start, start).decode()

    def take(self, numbers: np.ndarray) -> list[str]:
        """The strings with these numbers, which are not negative."""
        starts, stops = self._starts_N1[numbers].tolist(), self._starts_N1[numbers + 1].tolist()
        read, file = os.pread, self._file
        return [read(file, stop - start, start).decode() for start, stop in zip(starts, stops, strict=True)]

    def __iter__(self) -> Iterator[str]:
        block = 4096  # one read per string would take most of the time
        for first in range(0, len(self), block):
            starts = self._starts_N1[first : first + block + 1].tolist()
            data = os.pread(self._file, starts[-1] - starts[0], starts[0])
            for start, stop in itertools.pairwise(starts):
                yield data[start - starts[0] : stop - starts[0]].decode()


def find_strings(folder: Path, name: str) -> Strings:
    """What ``write_strings`` wrote."""
    return Strings(str(folder / f"{name}.uint8"), find(folder, f"{name}_starts"))
