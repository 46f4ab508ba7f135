"""The embeddings of a pool, as ``files`` lays them out, read a few at a time.

Shape letters: N images of the pool, K any of them, D embedding.
"""

import bisect
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow

_OPEN = 1024  # files that are mapped at a time
_AGAIN = "delete it, and embed the pool again"


class Embedded:
    """The image embeddings of a pool, on a disk; few are in memory at a time. Rows are numbered in the order of the
    files' names, as embedding-reader does."""

    def __init__(self, folder: Path):
        """Raises UserError for a folder without embeddings, or with files that do not belong together."""
        self.folder = folder
        self.files = sorted((folder / "img_emb").glob("*.npy"))
        if not self.files:
            raise UserError(f"{folder / 'img_emb'}: no .npy files; expected the --out of naturel-embed")
        self._open = functools.lru_cache(_OPEN)(lambda file: np.load(self.files[file], mmap_mode="r"))
        shapes = [self._shape(path) for path in self.files]
        if len({dim for _, dim in shapes}) > 1:
            raise UserError(
                f"{folder / 'img_emb'}: files have {sorted({dim for _, dim in shapes})} columns; expected one"
            )
        self.dim = shapes[0][1]
        self._first = np.cumsum([0, *(rows for rows, _ in shapes)])
        self._metadata = sorted((folder / "metadata").glob("*.parquet"))
        if list(map(_rows, self._metadata)) != [rows for rows, _ in shapes]:
            raise UserError(f"{folder}: metadata/ and img_emb/ differ in their rows; embed the pool again to its end")

    @staticmethod
    def _shape(path: Path) -> tuple[int, int]:
        try:
            rows, dim = np.load(path, mmap_mode="r").shape
        except (ValueError, EOFError) as error:
            raise UserError(f"{path}: not an array of embeddings ({error}); delete it and embed again") from error
        return rows, dim

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, rows_K: np.ndarray) -> np.ndarray:
        """Unit embeddings [K, D], float32."""
        z_KD = np.empty((len(rows_K), self.dim), np.float32)
        file_K = np.searchsorted(self._first, rows_K, "right") - 1
        for file in np.unique(file_K):
            of_file = file_K == file
            z_KD[of_file] = self._open(file)[rows_K[of_file] - self._first[file]]
        return _unit(z_KD)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The unit embeddings [K, D], float32, of rows ``start`` to ``stop``, in order, at most ``rows`` at a time.
        They are read, not mapped: mapped pages would count as memory of the process."""
        stop = len(self) if stop is None else stop
        while start < stop:
            file = bisect.bisect_right(self._first, start) - 1
            end = min(start + rows, stop, int(self._first[file + 1]))
            mapped = np.load(self.files[file], mmap_mode="r")
            offset = mapped.offset + (start - int(self._first[file])) * self.dim * mapped.itemsize
            z = np.fromfile(self.files[file], mapped.dtype, (end - start) * self.dim, offset=offset)
            yield _unit(z.reshape(-1, self.dim).astype(np.float32))
            start = end

    def names(self) -> Iterator[str]:
        """The name of each image, in order."""
        for path in self._metadata:
            with reading_arrow(path, _AGAIN):
                yield from pq.read_table(path, columns=["image_path"])["image_path"].to_pylist()


def _rows(path: Path) -> int:
    with reading_arrow(path, _AGAIN):
        return pq.read_metadata(path).num_rows


def _unit(z_KD: np.ndarray) -> np.ndarray:
    """The rows at length 1: float16 leaves lengths of about 0.9998."""
    return z_KD / np.maximum(np.linalg.norm(z_KD, axis=1, keepdims=True), 1e-12)
