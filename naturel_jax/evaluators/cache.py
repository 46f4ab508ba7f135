"""An on-disk cache of embeddings, so that neither a second benchmark on the same images nor an interrupted run embeds
anything twice.

Shape letters: I images, U distinct captions, L tokens, D embedding.
"""

import concurrent.futures
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.models.two_tower import Params
from naturel_jax.storage import once
from tfds_naturel.common.progress import Progress

_LOG = logging.getLogger(__name__)

CHUNK = 4096  # embeddings written at a time: the most an interruption can lose
_KEY = 20  # bytes


class CachedEncoder:
    """An ``embed.Embedder`` whose embeddings are kept in ``folder``: each file is a block (``once.write_block``) of
    rows, a key and an embedding.

    Keys are hashes of contents: the bytes and box of an image, the tokens of a caption. ``folder`` must identify the
    parameters and the processor (see ``fingerprints.of_model``).

    Rows of a damaged file are embedded again, and if the folder cannot be written the embeddings are kept in memory
    only; both are logged, and neither ends an evaluation.
    """

    def __init__(self, encoder: Encoder, params: Params, folder: Path):
        self._encoder, self._params, self._folder = encoder, params, folder
        self._dim = encoder.model.config.embed_dim
        self._row = np.dtype([("key", f"V{_KEY}"), ("embedding", "<f4", (self._dim,))])
        self._not_stored: dict[bytes, np.ndarray] = {}
        paths = sorted(folder.glob("*.rows"))
        self._path = {key: path for path in paths for key in self._rows(path)["key"].tolist()}

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
        keys = [hashlib.blake2b(b"tokens" + row.tobytes(), digest_size=_KEY).digest() for row in tokens_UL]

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
        """Embeddings [N, D] of ``keys``: those that are stored, or computed by ``embed`` from their indices. Equal keys
        share one embedding.
        """
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        known = self._stored(first)
        missing = [n for key, n in first.items() if key not in known]
        with Progress(total=len(missing), desc=what, unit="", disable=not missing) as bar:
            for start in range(0, len(missing), CHUNK):
                numbers = missing[start : start + CHUNK]
                new = {keys[n]: z_D for n, z_D in zip(numbers, embed(numbers, bar), strict=True)}
                if readable := {key: z_D for key, z_D in new.items() if key not in unreadable}:
                    self._store(readable)
                known |= new
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, self._dim), np.float32)

    def _stored(self, keys: Collection[bytes]) -> dict[bytes, np.ndarray]:
        """The stored embeddings of ``keys``; keys without one are left out."""
        known = {key: z_D for key, z_D in self._not_stored.items() if key in keys}
        for path in dict.fromkeys(self._path[key] for key in keys if key in self._path):
            rows = self._rows(path)
            known |= {key: z_D for key, z_D in zip(rows["key"].tolist(), rows["embedding"], strict=True) if key in keys}
        return known

    def _rows(self, path: Path) -> np.ndarray:
        """The rows in a file; none if it is damaged."""
        try:
            return np.frombuffer(once.read_block(path), self._row)
        except (ValueError, OSError) as error:
            _LOG.warning("%s; what is in it is embedded again", error)
            if isinstance(error, ValueError):
                with contextlib.suppress(OSError):
                    path.unlink()
            return np.empty(0, self._row)

    def _store(self, embeddings: Mapping[bytes, np.ndarray]) -> None:
        rows = np.array(list(embeddings.items()), self._row)
        path = self._folder / f"{hashlib.blake2b(rows['key'].tobytes(), digest_size=12).hexdigest()}.rows"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            once.write_block(path, rows.tobytes())
            self._path |= dict.fromkeys(embeddings, path)
        except OSError as error:
            if not self._not_stored:
                _LOG.warning("%s: cannot be used as a cache of embeddings (%s); not stored", self._folder, error)
            self._not_stored |= embeddings


def _image_key(image: Image) -> bytes | str:
    """The key of an image, or why it cannot be read."""
    try:
        return hashlib.blake2b(repr(image.box).encode() + image.read(), digest_size=_KEY).digest()
    except (OSError, ValueError) as error:
        return str(error)
