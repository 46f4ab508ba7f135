"""Embeddings of training images and captions by frozen towers, used in place of pixels and tokens
(``config.data.cache``, ``config.data.cache_captions``).

A folder (``frozen.py`` makes it) has rows of one shape in blocks of ``BLOCK``: ``00012.embeddings`` is float32
[rows, ...] after its checksum (``once.write_block``). The row of an image is [2, D]: as it is, and mirrored; that of a
caption is [D].

Shape letters: D embedding, T texts, R rows of the folder.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from naturel_jax.storage import once
from tfds_naturel.common import files

BLOCK = 1024  # rows; 4 MB of images if D is 512, 2 MB of captions

Shape = tuple[int, ...]


class Embeddings:
    """The ``count`` rows of a folder, each of ``shape``. Thread-safe; a pickled one is opened again."""

    def __init__(self, folder: Path, count: int, shape: Shape):
        self._arguments = (folder, count, shape)
        sizes = block_sizes(count)
        files.allow_open_files(len(sizes))
        self._blocks = [_mapped(path(folder, block), (size, *shape)) for block, size in enumerate(sizes)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Embeddings, self._arguments

    def __getitem__(self, n: int) -> np.ndarray:
        return self._blocks[n // BLOCK][n % BLOCK]


class ImageEmbeddings(NamedTuple):
    """The embeddings of a source's images, by their numbers in it, and that of the blank image."""

    embeddings: Embeddings
    blank_D: np.ndarray

    def at(self, n: int, mirrored: bool) -> np.ndarray:
        """The unit embedding of image ``n``, float32 [D]."""
        return self.embeddings[n][int(mirrored)]


class EmbeddedCaptions(NamedTuple):
    """The embeddings of a source's distinct captions; ``row_T``: the row of each of ``Items.texts``."""

    embeddings: Embeddings
    row_T: np.ndarray

    def at(self, text: int) -> np.ndarray:
        """The unit embedding of a text, float32 [D]."""
        return self.embeddings[int(self.row_T[text])]


def distinct(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """The row of each text among the distinct ones, int32 [texts]; the first text of each row, int64 [rows], in
    ascending order; and a digest of all.

    Texts are compared by 64-bit hashes, so that tens of millions need no memory for their words: the chance of any
    collision among ten million is 3e-6.
    """
    hashes = (xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) for text in texts)
    hash_T = np.fromiter(hashes, np.uint64, len(texts))
    _, first_R, row_T = np.unique(hash_T, return_index=True, return_inverse=True)
    by_first_use = np.argsort(first_R)
    rank_R = np.empty(len(first_R), np.int32)
    rank_R[by_first_use] = np.arange(len(first_R))
    return rank_R[row_T], first_R[by_first_use], xxhash.xxh3_128_hexdigest(hash_T.tobytes())


def block_sizes(count: int) -> list[int]:
    """Rows of each block of ``count``."""
    return [min(BLOCK, count - block * BLOCK) for block in range(math.ceil(count / BLOCK))]


def path(folder: Path, block: int) -> Path:
    """The file of a block."""
    return folder / f"{block:05}.embeddings"


def write(folder: Path, block: int, z: np.ndarray) -> None:
    """Writes a block, all of it or nothing."""
    once.write_block(path(folder, block), np.ascontiguousarray(z, "<f4").tobytes())


def check(folder: Path, block: int, shape: Shape) -> None:
    """Raises ValueError for a block that is not what ``write`` wrote, or not of ``shape``; FileNotFoundError for one
    that is missing."""
    found, expected = len(once.read_block(path(folder, block))), 4 * math.prod(shape)
    if found != expected:
        raise ValueError(f"{path(folder, block)} is damaged: {found:,} bytes; expected {expected:,}")


def _mapped(file: Path, shape: Shape) -> np.ndarray:
    return np.asarray(np.memmap(file, "<f4", "r", once.DIGEST, shape))
