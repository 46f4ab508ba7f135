"""Embeds the training images once, for a frozen image tower (``config.data.cache`` is ``embeddings``), and the distinct
captions, for a frozen text tower (``config.data.cache_captions``): every step would compute the same embeddings.

Each process embeds the rows of its devices, and each host keeps all embeddings. A block gets its name once it is
complete, so after an interruption, only missing blocks are computed.

Shape letters: N images, B images of a call, T texts, R rows of the folder, L tokens, D embedding.
"""

import concurrent.futures
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import xxhash
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from naturel_jax import storage
from naturel_jax.config import Config
from naturel_jax.data.images.augment import Blank, Crops, Encoded
from naturel_jax.data.images.boxes import Box
from naturel_jax.data.items import columns, decoded_writer, embedded
from naturel_jax.data.items.embedded import EmbeddedCaptions, Embeddings, ImageEmbeddings
from naturel_jax.data.items.items import Source
from naturel_jax.data.text.processor import Processor
from naturel_jax.data.text.texts import trimmed
from naturel_jax.devices import preemption
from naturel_jax.devices.sharding import batch_sharding, batch_shards, path_string
from naturel_jax.evaluators import fingerprints
from naturel_jax.models.two_tower import Encode, Params, of_pixels
from naturel_jax.storage import object_folders, once, staging
from naturel_jax.training import optim
from naturel_jax.training.start import Start
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

VERSION = 1
_ROWS = 512  # rows that go through a tower at a time
_LOG_LINES = 100  # at most this many lines report progress

Read = Callable[[int], np.ndarray]  # row number -> uint8 [size, size, 3] or int32 [L]
T = TypeVar("T")


class _Tower(NamedTuple):
    """``encode`` embeds ``batch`` rows at a time, sharded by ``sharding``; every process gets the whole result,
    [batch, dim]."""

    encode: Encode
    params: Params
    dim: int
    sharding: NamedSharding
    batch: int
    fingerprint: str


def embed_sources(config: Config, start: Start, sources: Sequence[Source], mesh: Mesh) -> list[Source]:
    """``sources`` with the embeddings that ``config.data.cache`` and ``config.data.cache_captions`` ask for; those that
    are missing are computed first.

    Raises UserError if a tower is trained or an image is not readable, and OSError if the disk has too little space.
    """
    data, model, processor, root = config.data, start.model, start.processor, staging.root(config.data.cache_dir)
    result = list(sources)
    check(config, start.trained)
    if data.cache == "embeddings":
        encode = of_pixels(model.encode_image, processor.mean, processor.std)
        tower = _make_tower(start, "image", encode, mesh)
        crops = Crops(model.config.image.size, data.crop_scale, data.shrink_by)
        blank = _pixels(Blank(), crops)
        blank_D = _run(tower, lambda _: blank, 1, blank)[0]
        result = [_embed_images(source, tower, crops, blank_D, root) for source in result]
    if data.cache_captions:
        tower = _make_tower(start, "text", model.encode_text, mesh)
        eos = model.config.text.eos_id if model.config.text.causal else None
        result = [_embed_captions(source, tower, processor, eos, root) for source in result]
    return result


def check(config: Config, trained: Params) -> None:
    """Raises UserError if a tower is trained whose embeddings ``config.data`` asks for; only the shapes of ``trained``,
    the parameters that training changes, are used."""
    if config.data.cache == "embeddings":
        _check_frozen(config, trained, "image", "cache", "decoded")
    if config.data.cache_captions:
        _check_frozen(config, trained, "text", "cache_captions", False)


def _check_frozen(config: Config, trained: Params, tower: str, field: str, other: str | bool) -> None:
    """Raises UserError if ``tower`` is trained; ``other``: what ``config.data.<field>`` can then be."""
    factors = optim.multipliers(config.optim, trained)[tower]
    if config.adapter.rank and jax.tree.leaves(factors):  # even frozen ones: embeddings are of the base alone
        raise UserError(
            f"config.data.{field} is {getattr(config.data, field)!r}, but config.adapter.targets has layers of the "
            f"{tower} tower: leave them out, or set config.data.{field} to {other!r}"
        )
    paths = [path_string(path) for path, factor in jax.tree_util.tree_leaves_with_path(factors) if np.any(factor)]
    if paths:
        raise UserError(
            f"config.data.{field} is {getattr(config.data, field)!r}, but config.optim.lr_multipliers trains "
            f"{tower}/{paths[0]}: freeze the {tower} tower with ('{tower}/.*', 0.0) as the first multiplier, or set "
            f"config.data.{field} to {other!r}"
        )


def _make_tower(start: Start, name: str, encode: Encode, mesh: Mesh) -> _Tower:
    params = {name: start.params[name]}
    whole = multihost_utils.process_allgather(params, tiled=True) if jax.process_count() > 1 else params
    shards = batch_shards(mesh)
    return _Tower(
        jax.jit(encode, out_shardings=NamedSharding(mesh, PartitionSpec())),
        start.params,
        start.model.config.embed_dim,
        batch_sharding(mesh),
        math.ceil(_ROWS / shards) * shards,
        fingerprints.of_model(start.model, whole, start.processor),
    )


def _embed_images(source: Source, tower: _Tower, crops: Crops, blank_D: np.ndarray, root: Path) -> Source:
    """``source`` with the embeddings of its images, in a folder of ``root``."""
    items, count = source.items, len(source.items.image_ids)
    key = {
        "version": VERSION,
        "source": items.name,
        "content": decoded_writer.identity(source),
        "images": _sample_digest(source),
        "model": tower.fingerprint,
        **crops._asdict(),
    }
    is_used_N = np.zeros(count, bool)
    is_used_N[items.images(np.arange(len(items)))] = True

    def embed(number_B: np.ndarray) -> np.ndarray:
        used_B = is_used_N[number_B]
        z_B2D = np.zeros((len(number_B), 2, tower.dim), np.float32)
        padding = np.zeros((crops.size, crops.size, 3), np.uint8)
        z_ND = _run(tower, _reader(source, crops, number_B[used_B]), 2 * int(used_B.sum()), padding)
        z_B2D[used_B] = z_ND.reshape(-1, 2, tower.dim)
        return z_B2D

    what = f"{len(items):,} images"
    embeddings = _fill(_folder(root, key, count), items.name, what, count, (2, tower.dim), embed)
    return dataclasses.replace(source, embedded=ImageEmbeddings(embeddings, blank_D))


def _embed_captions(source: Source, tower: _Tower, processor: Processor, eos: int | None, root: Path) -> Source:
    """``source`` with the embeddings of its distinct captions, in a folder of ``root``. ``eos``: as for ``trimmed``."""
    items = source.items
    row_T, first_R, digest = embedded.distinct(items.texts)
    key = {"version": VERSION, "source": items.name, "captions": digest, "model": tower.fingerprint}

    def embed(row_B: np.ndarray) -> np.ndarray:
        tokens_BL = trimmed(processor.tokenize(items.texts_at(first_R[row_B])), eos)
        return _run(tower, tokens_BL.__getitem__, len(row_B), tokens_BL[0])

    folder, what = _folder(root, key, len(first_R)), f"{len(first_R):,} distinct captions"
    embeddings = _fill(folder, items.name, what, len(first_R), (tower.dim,), embed)
    storage.write(epath.Path(folder / f"rows.{row_T.dtype}"), row_T.tobytes())
    return dataclasses.replace(
        source, embedded_captions=EmbeddedCaptions(embeddings, columns.mapped(folder / f"rows.{row_T.dtype}"))
    )


def _folder(root: Path, key: dict[str, Any], count: int) -> Path:
    folder = once.folder_of(root / "embedded", key)
    folder.mkdir(parents=True, exist_ok=True)
    once.write_meta(folder, key | {"count": count})
    return folder


def _fill(
    folder: Path,
    name: str,
    what: str,
    count: int,
    shape: embedded.Shape,
    embed: Callable[[np.ndarray], np.ndarray],
) -> Embeddings:
    """The embeddings in ``folder``, each of ``shape``, of ``what`` of the source ``name``; blocks that are missing are
    computed first. ``embed``: numbers [B] -> embeddings [B, *shape]."""
    sizes = embedded.block_sizes(count)
    own = np.array([not once.is_whole(embedded.check, folder, n, (size, *shape)) for n, size in enumerate(sizes)])
    missing = multihost_utils.process_allgather(own).any(axis=0)
    if missing.any():
        needed = 4 * math.prod(shape) * int(np.array(sizes) @ own)
        _LOG.info("%s: embedding %s into %s: %.3g GB", name, what, folder, needed / 1e9)
        object_folders.check_space(folder, needed, f"embeddings of {name}")
    for done, block in enumerate(np.flatnonzero(missing).tolist(), 1):
        preemption.check()
        z = embed(np.arange(block * embedded.BLOCK, block * embedded.BLOCK + sizes[block]))
        if own[block]:
            embedded.write(folder, block, z)
        if done % math.ceil(missing.sum() / _LOG_LINES) == 0:
            _LOG.info("%s: embedded %d of %d blocks", name, len(sizes) - missing.sum() + done, len(sizes))
    return Embeddings(folder, count, shape)


def _sample_digest(source: Source) -> str:
    """Digest of a sample of the encoded images: files may change while the records stay as they are."""
    digest = xxhash.xxh3_64()
    for n in decoded_writer.sample(source.items):
        digest.update(_read_named(source, n, source.read_image))
    return digest.hexdigest()


def _reader(source: Source, crops: Crops, numbers: np.ndarray) -> Read:
    """Row 2k is the image ``numbers[k]``, row 2k + 1 the same mirrored."""

    def read(row: int) -> np.ndarray:
        n = int(numbers[row // 2])
        return _read_named(source, n, lambda n: _pixels(Encoded.of(source.read_image(n)), crops, mirrored=row % 2 == 1))

    return read


def _read_named(source: Source, n: int, read: Callable[[int], T]) -> T:
    """``read(n)``; its errors name the image."""
    try:
        return read(n)
    except (ValueError, OSError) as error:
        raise UserError(f"{source.items.name}, image {source.items.image_ids[n]!r}: {error}") from error


def _pixels(image: Encoded | Blank, crops: Crops, mirrored: bool = False) -> np.ndarray:
    """The image as the pipeline makes it when boxes are not random."""
    side = min(image.width, image.height)
    box = Box((image.width - side) // 2, (image.height - side) // 2, side, side, mirrored)
    out = np.empty((crops.size, crops.size, 3), np.uint8)
    image.fill(box, out, crops.shrink_by)
    return out


def _run(tower: _Tower, read: Read, rows: int, padding: np.ndarray) -> np.ndarray:
    """Embeddings [rows, D] of what ``read`` returns for each; ``padding`` fills the last batch. The next batch is read
    while one is computed."""
    results, pending = [np.zeros((0, tower.dim), np.float32)], []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, rows, tower.batch):

            def part(index: tuple[slice, ...] | None, first: int = first) -> np.ndarray:
                start, stop, _ = index[0].indices(tower.batch) if index else (0, tower.batch, 1)
                own = list(pool.map(read, range(first + start, min(first + stop, rows))))
                return np.stack(own + [padding] * (stop - start - len(own)))

            batch = jax.make_array_from_callback((tower.batch, *padding.shape), tower.sharding, part)
            pending.append(tower.encode(tower.params, batch))
            if len(pending) > 1:
                results.append(np.asarray(pending.pop(0)))
    return np.concatenate([*results, *map(np.asarray, pending)])[:rows]
