"""Embeddings of training images by a frozen image tower, which take the place of their pixels (``config.data.cache``).

The folder of a source (``frozen.py`` makes it) has blocks of ``BLOCK`` images: ``00012.embeddings`` is the XXH3 of what
follows, then float32 [images, 2, D]: of each image as it is, and mirrored.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from etils import epath

from naturel_jax import storage

BLOCK = 1024  # images; 4 MB if D is 512
_DIGEST = 8  # bytes


class Embedded:
    """The embeddings of a source's images, with their numbers in it, and that of the blank image, ``blank_D``. Safe to
    use from several threads; a pickled one is opened again."""

    def __init__(self, folder: Path, count: int, blank_D: np.ndarray):
        self._arguments = (folder, count, blank_D)
        self.blank_D = blank_D
        sizes = block_sizes(count)
        self._blocks = [_mapped(path(folder, block), size, len(blank_D)) for block, size in enumerate(sizes)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Embedded, self._arguments

    def at(self, n: int, mirrored: bool) -> np.ndarray:
        """The unit embedding of image ``n``, float32 [D]."""
        return self._blocks[n // BLOCK][n % BLOCK, int(mirrored)]


def block_sizes(count: int) -> list[int]:
    """Images of each block of ``count``."""
    return [min(BLOCK, count - block * BLOCK) for block in range(math.ceil(count / BLOCK))]


def path(folder: Path, block: int) -> Path:
    """The file of a block."""
    return folder / f"{block:05}.embeddings"


def write(folder: Path, block: int, z_N2D: np.ndarray) -> None:
    """Writes a block, all of it or nothing."""
    content = np.ascontiguousarray(z_N2D, "<f4").tobytes()
    storage.write(epath.Path(path(folder, block)), xxhash.xxh3_64_digest(content) + content)


def check(folder: Path, block: int, size: int, dim: int) -> None:
    """Raises ValueError for a block that is not what ``write`` wrote, FileNotFoundError for one that is missing."""
    content = path(folder, block).read_bytes()
    expected = _DIGEST + 4 * size * 2 * dim
    if len(content) != expected or xxhash.xxh3_64_digest(content[_DIGEST:]) != content[:_DIGEST]:
        raise ValueError(f"{path(folder, block)}: damaged ({len(content):,} of {expected:,} bytes, or wrong ones)")


def _mapped(file: Path, size: int, dim: int) -> np.ndarray:
    return np.memmap(file, "<f4", "r", _DIGEST, (size, 2, dim))
