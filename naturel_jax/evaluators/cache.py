"""Embeddings on disk, so that a second benchmark with the same pictures, or a run that was interrupted, embeds
nothing twice.
"""

import concurrent.futures
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.models.two_tower import Params

CHUNK = 4096  # embeddings are written this many at a time: what an interruption can lose


class CachedEncoder:
    """An ``Encoder`` of one checkpoint whose embeddings are kept in the SQLite file ``path``.

    Keys are contents: the bytes and box of an image, the tokens of a caption. ``path`` must name checkpoint and
    processor (see ``results.model_fingerprint``).
    """

    def __init__(self, encoder: Encoder, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._encoder, self._path = encoder, path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            logging.warning("%s: not a readable cache of embeddings (%s); it is started again", path, error)
            path.unlink()
            self._open()

    def _open(self) -> None:
        self._file = sqlite3.connect(self._path)
        self._file.execute("create table if not exists embeddings (key blob primary key, value blob) without rowid")

    def images(self, params: Params, images: Sequence[Image]) -> tuple[np.ndarray, dict[int, str]]:
        """As ``Encoder.images``."""
        with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            keys = list(pool.map(_image_key, images))
        faults = {n: f"image {images[n].key}: {key}" for n, key in enumerate(keys) if isinstance(key, str)}
        readable = [n for n in range(len(keys)) if n not in faults]
        unreadable: dict[bytes, str] = {}

        def embed(numbers: list[int], bar: tqdm) -> np.ndarray:
            zimg_ID, bad = self._encoder.images(params, [images[readable[n]] for n in numbers], bar.update)
            unreadable.update((keys[readable[numbers[n]]], reason) for n, reason in bad.items())
            return zimg_ID

        zimg_ID = np.zeros((len(images), self._encoder.model.config.embed_dim), np.float32)
        zimg_ID[readable] = self._known("images", [keys[n] for n in readable], embed, unreadable)
        return zimg_ID, faults | {n: unreadable[keys[n]] for n in readable if keys[n] in unreadable}

    def captions(self, params: Params, texts: Sequence[str]) -> np.ndarray:
        """As ``Encoder.captions``."""
        if not texts:
            return self._encoder.captions(params, texts)
        keys = [
            hashlib.blake2b(b"tokens" + row.tobytes(), digest_size=20).digest() for row in self._encoder.tokens(texts)
        ]

        def embed(numbers: list[int], bar: tqdm) -> np.ndarray:
            return self._encoder.captions(params, [texts[n] for n in numbers], bar.update)

        return self._known("captions", keys, embed, {})

    def _known(
        self,
        what: str,
        keys: Sequence[bytes],
        embed: Callable[[list[int], tqdm], np.ndarray],
        unreadable: Mapping[bytes, str],
    ) -> np.ndarray:
        """Embeddings [N, D] of ``keys``: from the file, or from ``embed`` of their numbers and then stored. Equal
        keys have one embedding.
        """
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        known: dict[bytes, np.ndarray] = {}
        for key in first:
            row = self._file.execute("select value from embeddings where key = ?", (key,)).fetchone()
            if row is not None:
                known[key] = np.frombuffer(row[0], np.float32)
        missing = [n for key, n in first.items() if key not in known]
        with tqdm(total=len(missing), desc=what, unit="", disable=not missing) as bar:
            for start in range(0, len(missing), CHUNK):
                some = missing[start : start + CHUNK]
                new = {keys[n]: z_D for n, z_D in zip(some, embed(some, bar), strict=True)}
                self._store((key, z_D) for key, z_D in new.items() if key not in unreadable)
                known |= new
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, self._encoder.model.config.embed_dim))

    def _store(self, rows: Iterable[tuple[bytes, np.ndarray]]) -> None:
        with self._file:
            self._file.executemany(
                "insert or replace into embeddings values (?, ?)", ((key, z_D.tobytes()) for key, z_D in rows)
            )


def _image_key(image: Image) -> bytes | str:
    """The key of an image, or why it cannot be read."""
    try:
        return hashlib.blake2b(repr(image.box).encode() + image.read(), digest_size=20).digest()
    except (OSError, ValueError) as error:
        return str(error)
