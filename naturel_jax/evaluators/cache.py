"""An on-disk cache of embeddings, so that neither a second benchmark on the same images nor an interrupted run embeds
anything twice.
"""

import concurrent.futures
import hashlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.models.two_tower import Params
from tfds_naturel.common.progress import Progress

_LOG = logging.getLogger(__name__)

CHUNK = 4096  # embeddings written at a time: the most an interruption can lose
_TABLE = "embeddings (key blob primary key, value blob) without rowid"
PATIENCE = 60.0  # seconds to wait for another process that writes to the file
UNIT_TOLERANCE = 0.02  # of a stored embedding's length, which is 1 up to the rounding of bfloat16 towers


class CachedEncoder:
    """An ``embed.Embedder`` whose embeddings are kept in the SQLite file ``path``.

    Keys are hashes of contents: the bytes and box of an image, the tokens of a caption. ``path`` must identify the
    parameters and the processor (see ``results.model_fingerprint``).

    A damaged file is replaced, and without one that can be written the embeddings are only kept in memory; both are
    logged, and neither ends an evaluation.
    """

    def __init__(self, encoder: Encoder, params: Params, path: Path):
        self._encoder, self._params = encoder, params
        self._dim = encoder.model.config.embed_dim
        self._path = path
        try:
            self._file = _open(path)
        except (sqlite3.Error, OSError) as error:
            self._file = _replaced(path, error)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def images(self, images: Sequence[Image]) -> tuple[np.ndarray, dict[int, str]]:
        """See ``embed.Embedder.images``."""
        with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            keys_or_faults = list(pool.map(_image_key, images))
        faults = {n: f"image {images[n].key}: {key}" for n, key in enumerate(keys_or_faults) if isinstance(key, str)}
        readable = [n for n in range(len(images)) if n not in faults]
        keys = [key for key in keys_or_faults if isinstance(key, bytes)]
        unreadable: dict[bytes, str] = {}

        def embed(numbers: list[int], bar: Progress) -> np.ndarray:
            uncached = [images[readable[n]] for n in numbers]
            zimg_ID, bad = self._encoder.images(self._params, uncached, bar.update)
            unreadable.update((keys[numbers[n]], reason) for n, reason in bad.items())
            return zimg_ID

        zimg_ID = np.zeros((len(images), self._dim), np.float32)
        zimg_ID[readable] = self._embeddings("images", keys, embed, unreadable)
        return zimg_ID, faults | {
            n: unreadable[key] for n, key in zip(readable, keys, strict=True) if key in unreadable
        }

    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """See ``embed.Embedder.captions``."""
        if not texts:
            return self._encoder.captions(self._params, texts)
        tokens_UL = self._encoder.tokens(texts)
        keys = [hashlib.blake2b(b"tokens" + row.tobytes(), digest_size=20).digest() for row in tokens_UL]

        def embed(numbers: list[int], bar: Progress) -> np.ndarray:
            return self._encoder.captions(self._params, [texts[n] for n in numbers], bar.update)

        return self._embeddings("captions", keys, embed, unreadable=())

    def _embeddings(
        self,
        what: str,
        keys: Sequence[bytes],
        embed: Callable[[list[int], Progress], np.ndarray],
        unreadable: Container[bytes],
    ) -> np.ndarray:
        """Embeddings [N, D] of ``keys``: read from the file, or computed by ``embed`` from their indices and stored.
        Equal keys share one embedding.
        """
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        known = {key: z_D for key in first if (z_D := self._stored(key)) is not None}
        missing = [n for key, n in first.items() if key not in known]
        with Progress(total=len(missing), desc=what, unit="", disable=not missing) as bar:
            for start in range(0, len(missing), CHUNK):
                numbers = missing[start : start + CHUNK]
                new = {keys[n]: z_D for n, z_D in zip(numbers, embed(numbers, bar), strict=True)}
                self._store((key, z_D) for key, z_D in new.items() if key not in unreadable)
                known |= new
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, self._dim), np.float32)

    def _stored(self, key: bytes) -> np.ndarray | None:
        """The embedding in the file; None if it is missing or not a unit vector of the model's size."""
        try:
            row = self._file.execute("select value from embeddings where key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._replace(error)
            return None
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != 4 * self._dim:
            return None
        z_D = np.frombuffer(row[0], np.float32)
        return z_D if abs(float(np.linalg.norm(z_D)) - 1) < UNIT_TOLERANCE else None

    def _store(self, embeddings: Iterable[tuple[bytes, np.ndarray]]) -> None:
        rows = [(key, z_D.tobytes()) for key, z_D in embeddings]
        for _ in range(2):  # the second time into the file that replaces a damaged one
            try:
                with self._file:
                    self._file.executemany("insert or replace into embeddings values (?, ?)", rows)
                return
            except sqlite3.Error as error:
                self._replace(error)

    def _replace(self, error: sqlite3.Error) -> None:
        self._file.close()
        self._file = _replaced(self._path, error)


def _open(path: Path) -> sqlite3.Connection:
    """Raises OSError or sqlite3.OperationalError if ``path`` cannot be used, another sqlite3.DatabaseError for a file
    that is damaged or another database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=PATIENCE)
    try:
        file.execute(f"create table if not exists {_TABLE}")
        if file.execute("select type, sql from sqlite_master").fetchall() != [("table", f"CREATE TABLE {_TABLE}")]:
            raise sqlite3.DatabaseError("another schema")
        if (verdict := file.execute("pragma quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
    except sqlite3.Error:
        file.close()
        raise
    return file


def _replaced(path: Path, error: Exception) -> sqlite3.Connection:
    """An empty cache in place of one that failed with ``error``: at ``path`` if what is there was damaged, in memory if
    ``path`` cannot be used (a read-only or full disk, no permission).
    """
    try:
        if path.is_dir():
            aside = next(p for n in itertools.count(1) if not (p := path.with_name(f"{path.name}.folder{n}")).exists())
            path.rename(aside)
            error = IsADirectoryError(f"a folder, renamed to {aside.name}")
        elif isinstance(error, sqlite3.OperationalError | OSError):
            raise error
        else:
            for suffix in ("", "-journal", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        file = _open(path)
    except (sqlite3.Error, OSError) as problem:
        _LOG.warning("%s: cannot be used as a cache of embeddings (%s); they are not stored", path, problem)
        return _open_in_memory()
    _LOG.warning("%s: not a readable cache of embeddings (%s); starting over", path, error)
    return file


def _open_in_memory() -> sqlite3.Connection:
    file = sqlite3.connect(":memory:")
    file.execute(f"create table {_TABLE}")
    return file


def _image_key(image: Image) -> bytes | str:
    """The key of an image, or why it cannot be read."""
    try:
        return hashlib.blake2b(repr(image.box).encode() + image.read(), digest_size=20).digest()
    except (OSError, ValueError) as error:
        return str(error)
