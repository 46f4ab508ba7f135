"""Finds the nearest images of a pool by FAISS: an index on disk, made within a budget of memory.

The kind of the index follows from the pool's size and the budget (``choose``). What it finds is compared again with the
embeddings themselves, and its effort (lists or nodes that are visited) is doubled until, of the ten nearest of sampled
images, it finds at least ``RECALL``.

Shape letters: N images of the pool, Q queries, K results, F distinct results of all queries, D embedding.
"""

import contextlib
import functools
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.evaluators.pool.embedded import EmbeddedPool
from naturel_jax.storage import once
from naturel_jax.storage.locks import locked
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.extras import library
from tfds_naturel.common.files import version_of
from tfds_naturel.common.progress import Progress
from tfds_naturel.hard_images.mining import cosines

_LOG = logging.getLogger(__name__)

NAME = "img_emb.index"  # in the pool's folder
RECALL = 0.95
EXACT, GRAPH = 200_000, 2_000_000  # most images of an exact index, and of HNSW
_LINKS = 32  # of a node of HNSW
_PER_LIST = 39  # training images for each list, below which FAISS warns
_BLOCK_BYTES = 64 << 20  # of embeddings, read at a time
_SAMPLE, _NEAREST = 200, 10
_RERANKED = 8  # results of an index that is not exact for each that is asked for
_EFFORTS = (8, 16, 32, 64, 128, 256, 512)


class Kind(NamedTuple):
    """``key``: for FAISS's ``index_factory``. ``training``: images to train on, 0 for none."""

    key: str
    training: int = 0


def choose(images: int, dim: int, budget: int) -> Kind:
    """The kind of index for so many images, of which at most ``budget`` bytes are in memory.

    Exact for up to 200,000 images and HNSW for up to two million, provided that embeddings (and links) fit in half of
    the budget. Otherwise IVF-PQ with one byte per eight dimensions and about 4 sqrt(N) lists, or as many as can be
    trained within a quarter of the budget.
    """
    size = 4 * dim * images
    if images <= EXACT and size <= budget // 2:
        return Kind("Flat")
    if images <= GRAPH and size + 2 * 4 * _LINKS * images <= budget // 2:
        return Kind(f"HNSW{_LINKS}")
    most = min(images, budget // 4 // (4 * dim))
    lists = min(1 << round(math.log2(4 * math.sqrt(images))), 1 << int(math.log2(max(most / _PER_LIST, 1))))
    code = next(size for size in range(dim // 8 or 1, 0, -1) if dim % size == 0)
    return Kind(f"IVF{lists},PQ{code}", min(most, max(lists * _PER_LIST, 1 << 16)))


class Index:
    """The nearest images of an ``EmbeddedPool``. ``about``: at least its kind, and its effort and recall."""

    def __init__(self, pool: EmbeddedPool, searched: Any, about: dict[str, Any]):
        self._pool, self._searched, self.about = pool, searched, about
        self._reranked = 2 if about["kind"] == "Flat" else _RERANKED

    def search(self, z_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool [Q, K], nearest first, and their cosines [Q, K], float32; -1 and -inf where there are fewer
        than ``count``."""
        asked = min(self._reranked * count, len(self._pool))
        size = max(_BLOCK_BYTES // (4 * self._pool.dim * asked), 1)
        found = [self._search(z_QD[n : n + size], asked, count) for n in range(0, len(z_QD), size)]
        rows, cosines = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(cosines)

    def _search(self, z_QD: np.ndarray, asked: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        _, rows_QK = self._searched.search(np.ascontiguousarray(z_QD, np.float32), asked)
        found, number_QK = np.unique(rows_QK, return_inverse=True)
        z_FD = self._pool[np.maximum(found, 0)]
        of_query = zip(number_QK.reshape(rows_QK.shape), z_QD, strict=True)
        cosines_QK = np.stack([cosines(z_FD[of], z_D) for of, z_D in of_query])
        cosines_QK = np.where(rows_QK < 0, -np.inf, cosines_QK).astype(np.float32)
        order = np.lexsort((rows_QK, -cosines_QK))[:, :count]  # of equal ones, the lowest row first
        return np.take_along_axis(rows_QK, order, axis=1), np.take_along_axis(cosines_QK, order, axis=1)


def load_or_build(pool: EmbeddedPool, budget: int) -> Index:
    """The index of ``pool``, in its folder; built if there is none for these embeddings, or not as it was written.
    ``budget``: bytes of memory.

    Raises UserError if FAISS is not installed.
    """
    faiss = library("faiss", "mine")
    path = pool.folder / NAME
    about_path = epath.Path(f"{path}.json")
    with locked(f"{path}.lock"):
        about: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, UserError):  # none, or a damaged one
            about = storage.read_json(about_path) if path.exists() else {}
        if about.get("made_from") != _made_from(pool, path):
            storage.delete(about_path)
            kind = choose(len(pool), pool.dim, budget)
            _LOG.info("%s: indexing %s images of %d dimensions: %s", path, f"{len(pool):,}", pool.dim, kind.key)
            build(faiss, pool, path, kind, budget)
            about = {"made_from": _made_from(pool, path), "images": len(pool), "kind": kind.key}
            about |= _tune(faiss, pool, path, kind.key)
            storage.write_json(about_path, about)
    searched = _open(faiss, path, about["kind"])
    _set_effort(faiss, searched, about["effort"])
    return Index(pool, searched, {name: value for name, value in about.items() if name != "made_from"})


def _made_from(pool: EmbeddedPool, path: Path) -> dict[str, Any]:
    """Identifies the embeddings and the index at ``path`` of them. FAISS trusts what is in an index, so one that this
    machine has not written, as the time of its last change shows, which nobody can set, is not read."""
    paths = [place for place in (path, Path(_lists(path))) if place.exists()]
    return {
        "embeddings": version_of(*pool.files),
        "xxh3": [once.checksum(place) for place in paths],
        "written": [place.stat().st_ctime_ns for place in paths],
    }


def build(faiss: Any, pool: EmbeddedPool, path: Path, kind: Kind, budget: int) -> None:
    """Writes the index to ``path``. Lists are written when they have a quarter of the budget, and merged on disk."""
    index = faiss.index_factory(pool.dim, kind.key, faiss.METRIC_INNER_PRODUCT)
    for old in (path, Path(_lists(path))):  # FAISS would write to where a link leads
        old.unlink(missing_ok=True)
    if not kind.training:
        _add(index, pool, 0, len(pool))
        faiss.write_index(index, str(path))
        return
    index.train(_sample(pool, kind.training))
    rows = max(budget // 4 // (index.code_size + 8), 1)
    if rows >= len(pool):
        _add(index, pool, 0, len(pool))
        faiss.write_index(index, str(path))
        return
    folder = Path(f"{path}.parts")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    trained, parts = str(folder / "trained"), list[str]()
    faiss.write_index(index, trained)
    for start in range(0, len(pool), rows):
        index = faiss.read_index(trained)
        _add(index, pool, start, min(start + rows, len(pool)))
        parts.append(str(folder / str(len(parts))))
        faiss.write_index(index, parts[-1])
    index = faiss.read_index(trained)
    library("faiss.contrib.ondisk", "mine").merge_ondisk(index, parts, _lists(path))
    faiss.write_index(index, str(path))
    shutil.rmtree(folder)


def _add(index: Any, pool: EmbeddedPool, start: int, stop: int) -> None:
    """Adds the rows, which are their own ids."""
    with Progress(total=stop - start, unit="image", desc="indexing") as progress:
        for z_KD in _blocks(pool, start, stop):
            ids = np.arange(start, start + len(z_KD))
            index.add_with_ids(z_KD, ids) if hasattr(index, "nlist") else index.add(z_KD)
            start += len(z_KD)
            progress.update(len(z_KD))


def _blocks(pool: EmbeddedPool, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    return pool.blocks(max(_BLOCK_BYTES // (4 * pool.dim), 1), start, stop)


def _sample(pool: EmbeddedPool, count: int) -> np.ndarray:
    """Embeddings [count, D] that are evenly spread, in runs of up to 256."""
    run = min(256, count)
    starts = np.linspace(0, len(pool) - run, -(-count // run)).astype(int)
    z_ND = np.empty((len(starts) * run, pool.dim), np.float32)
    for n, start in enumerate(starts.tolist()):
        place = n * run
        for z_KD in pool.blocks(run, start, start + run):
            z_ND[place : place + len(z_KD)] = z_KD
            place += len(z_KD)
    return z_ND[:count]


def _lists(path: Path) -> str:
    """The file with the lists of an index that was merged on disk."""
    return f"{path}.lists"


def _open(faiss: Any, path: Path, key: str) -> Any:
    """The index, mapped into memory."""
    if os.path.exists(_lists(path)):  # it is mapped without a flag, and with IO_FLAG_MMAP, FAISS 1.15 crashes
        return faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if key.startswith("IVF") else faiss.IO_FLAG_MMAP_IFC)


def _set_effort(faiss: Any, index: Any, effort: int) -> None:
    if hasattr(index, "nlist"):
        index.nprobe = min(effort, index.nlist)
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = effort


def _tune(faiss: Any, pool: EmbeddedPool, path: Path, key: str) -> dict[str, Any]:
    """The least effort that finds ``RECALL`` of the nearest images of a sample, or the highest; and what it finds."""
    searched = _open(faiss, path, key)
    rows_Q = np.random.default_rng(0).choice(len(pool), min(_SAMPLE, len(pool)), replace=False)
    queries_QD = pool[rows_Q]
    exact = [set(row) - {own} for row, own in zip(_exact(pool, queries_QD).tolist(), rows_Q.tolist(), strict=True)]
    recall = functools.partial(_recall, Index(pool, searched, {"kind": key}), queries_QD, rows_Q, exact)
    for effort in _EFFORTS if hasattr(searched, "nlist") or hasattr(searched, "hnsw") else (0,):
        _set_effort(faiss, searched, effort)
        found = recall()
        if found >= RECALL:
            break
    return {"effort": effort, f"recall@{_NEAREST}": round(found, 4), "sample": len(rows_Q)}


def _exact(pool: EmbeddedPool, z_QD: np.ndarray) -> np.ndarray:
    """The nearest rows [Q, _NEAREST + 1] of all of the pool, in any order: one of them is the query's own."""
    count = min(_NEAREST + 1, len(pool))
    best = np.full((len(z_QD), count), -np.inf, np.float32)
    rows, start = np.full((len(z_QD), count), -1), 0
    for z_KD in _blocks(pool):
        both = np.concatenate([best, z_QD @ z_KD.T], axis=1)
        numbers = np.concatenate(
            [rows, np.broadcast_to(np.arange(start, start + len(z_KD)), (len(z_QD), len(z_KD)))], 1
        )
        kept = np.argpartition(-both, count - 1, axis=1)[:, :count]
        best, rows = np.take_along_axis(both, kept, axis=1), np.take_along_axis(numbers, kept, axis=1)
        start += len(z_KD)
    return rows


def _recall(index: Index, z_QD: np.ndarray, rows_Q: np.ndarray, exact: list[set[int]]) -> float:
    found, _ = index.search(z_QD, _NEAREST + 1)
    shares = [
        len(of & (set(row) - {own})) / max(len(of), 1)
        for of, row, own in zip(exact, found.tolist(), rows_Q.tolist(), strict=True)
    ]
    return float(np.mean(shares))
