"""The embeddings of a pool, as ``files`` lays them out, read a few at a time.

Shape letters: N images of the pool, K any of them, D embedding.
"""

import bisect
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from naturel_jax.evaluators.pool import files
from naturel_jax.storage import once
from tfds_naturel.common import escape
from tfds_naturel.common.arrow_files import parquet_batches, parquet_schema
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular, reading_arrow

_OPEN = 1024  # files that are mapped at a time
_NAMES = 1 << 14  # that are read at a time
_AGAIN = "delete it, and embed the pool again"


class EmbeddedPool:
    """The image embeddings of a pool, on a disk; few are in memory at a time. Rows are numbered in the order of the
    files' names, as embedding-reader does."""

    def __init__(self, folder: Path):
        """Raises UserError for a folder without embeddings, or with files that do not belong together."""
        self.folder = folder
        self._unchecked = files.checksums(folder)
        self.files = sorted((folder / "img_emb").glob("*.npy"))
        if not self.files:
            raise UserError(f"{folder / 'img_emb'}: no .npy files; expected the --out of naturel-embed")
        self._metadata = sorted((folder / "metadata").glob("*.parquet"))
        needed = {path for path in self._unchecked if path.parent.name in ("img_emb", "metadata")}
        if needed and (unlisted := sorted({*self.files, *self._metadata} - needed)):
            raise UserError(
                f"{unlisted[0]} is not listed in {files.DONE}/, which has the checksums of the other files: embed the "
                "pool again to its end, or delete the file"
            )
        if missing := sorted(needed.difference(self.files, self._metadata)):
            raise UserError(
                f"{folder}: {len(missing):,} files that {files.DONE}/ lists are missing, such as {missing[0].name}; "
                f"copy them too, or delete what {files.DONE}/ says of them, and embed the pool again to its end"
            )
        self._open = functools.lru_cache(_OPEN)(lambda file: _mapped(self._sound(self.files[file])))
        shapes = [_mapped(path).shape for path in self.files]
        if len({dim for _, dim in shapes}) > 1:
            raise UserError(
                f"{folder / 'img_emb'}: files have {sorted({dim for _, dim in shapes})} columns; expected one"
            )
        self.dim = shapes[0][1]
        self._first = np.cumsum([0, *(rows for rows, _ in shapes)])
        parts = [(path.stem.removeprefix("img_emb"), rows) for path, (rows, _) in zip(self.files, shapes, strict=True)]
        if [(path.stem.removeprefix("metadata"), _rows(path)) for path in self._metadata] != parts:
            raise UserError(
                f"{folder}: metadata/ and img_emb/ differ in their files or rows; copy both whole, or embed the pool "
                "again to its end"
            )

    def _sound(self, path: Path) -> Path:
        """``path``, which is compared with its checksum when it is first read: a pool may be too large to read it whole
        at each start. Raises UserError if it is damaged."""
        if (expected := self._unchecked.pop(path, None)) and once.checksum(path) != expected:
            self._unchecked[path] = expected
            raise UserError(f"{path} is damaged; {_AGAIN}, after deleting what {files.DONE}/ says of it")
        return path

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, rows_K: np.ndarray) -> np.ndarray:
        """Unit embeddings [K, D], float32."""
        z_KD = np.empty((len(rows_K), self.dim), np.float32)
        file_K = np.searchsorted(self._first, rows_K, "right") - 1
        for file in np.unique(file_K):
            of_file = file_K == file
            z_KD[of_file] = _unit(self.files[file], self._open(file)[rows_K[of_file] - self._first[file]])
        return z_KD

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The unit embeddings [K, D], float32, of rows ``start`` to ``stop``, in order, at most ``rows`` at a time.
        They are read, not mapped: mapped pages would count as memory of the process."""
        stop = len(self) if stop is None else stop
        while start < stop:
            file = bisect.bisect_right(self._first, start) - 1
            end = min(start + rows, stop, int(self._first[file + 1]))
            mapped = _mapped(self._sound(self.files[file]))
            offset = mapped.offset + (start - int(self._first[file])) * self.dim * mapped.itemsize
            z = np.fromfile(self.files[file], mapped.dtype, (end - start) * self.dim, offset=offset)
            yield _unit(self.files[file], z.reshape(-1, self.dim))
            start = end

    def names(self) -> Iterator[str]:
        """The name of each image, in order. Raises UserError for a damaged file."""
        for path in self._metadata:
            with reading_arrow(path, _AGAIN):
                expected, found = _rows(self._sound(path)), 0
                for batch in parquet_batches(path, _NAMES, ["image_path"], known_rows=expected):
                    names: list[Any] = batch.column(0).to_pylist() if batch.num_columns == 1 else [None]
                    if wrong := [name for name in names if not isinstance(name, str)]:
                        raise UserError(f"{path}: an image_path is {wrong[0]!r:.80}, expected a string; {_AGAIN}")
                    found += len(names)
                    yield from names
            if found != expected:
                raise UserError(f"{path}: has {found:,} names, but says that it has {expected:,}; {_AGAIN}")


def _mapped(path: Path) -> np.memmap:
    """The embeddings in a file. Raises UserError for a file of anything else; NumPy raises nearly anything."""
    check_regular(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not an array of embeddings ({escape.line(str(error)):.80}); {_AGAIN}") from error
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1] or not array.flags.c_contiguous:
        raise UserError(
            f"{path}: an array of {array.dtype!s:.40} {array.shape!r:.80}; expected numbers, row by row, of one "
            f"embedding each; {_AGAIN}"
        )
    return array


def _rows(path: Path) -> int:
    with reading_arrow(path, _AGAIN):
        parquet_schema(path)  # refuses a footer that would take much memory
        return pq.read_metadata(path).num_rows


def _unit(path: Path, z_KD: np.ndarray) -> np.ndarray:
    """The rows at length 1, float32: float16 leaves lengths of about 0.9998. Rows of zeros stay zeros. Raises
    UserError for rows that are not finite."""
    z_KD = z_KD.astype(np.float32, copy=False)
    length_K1 = np.linalg.norm(z_KD, axis=1, keepdims=True)
    if not np.isfinite(length_K1).all():
        raise UserError(f"{path}: an embedding is not finite; {_AGAIN}")
    return z_KD / np.maximum(length_K1, 1e-12)
