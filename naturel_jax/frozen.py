"""Embeds the training images once, for a frozen image tower (``config.data.cache`` is ``embeddings``): a step would
embed them to the same result.

All processes embed together, each the images of its devices, and each host keeps all embeddings. A block has its name
once it is whole, so what was interrupted continues with the next one.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
import xxhash
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from naturel_jax import object_folders, optim, preemption, storage
from naturel_jax.config import Config
from naturel_jax.data import decoded_writer, embedded, staging
from naturel_jax.data.augment import Blank, Crops, Encoded
from naturel_jax.data.boxes import Box
from naturel_jax.data.embedded import BLOCK, Embedded
from naturel_jax.data.items import Source
from naturel_jax.evaluators.results import model_fingerprint
from naturel_jax.models.two_tower import Params, normalize
from naturel_jax.sharding import batch_sharding, batch_shards, path_string
from naturel_jax.start import Start
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)

VERSION = 1
_TOGETHER = 256  # images that go through the tower at a time, each twice

Read = Callable[[int], np.ndarray]  # of a row: uint8 [size, size, 3]
T = TypeVar("T")


class _Tower(NamedTuple):
    """``encode`` embeds rows that are sharded by ``sharding``, ``batch`` of them at a time, to what every process
    has."""

    encode: Callable[[Params, jax.Array], jax.Array]
    params: Params
    crops: Crops
    sharding: NamedSharding
    batch: int
    fingerprint: str


def embed_sources(config: Config, start: Start, sources: Sequence[Source], mesh: Mesh) -> list[Source]:
    """``sources`` with the embeddings of their images, if ``config.data.cache`` asks for them; those that are missing
    are computed first.

    Raises UserError if the image tower is trained or an image is not readable, and OSError if the disk has too little
    space.
    """
    if config.data.cache != "embeddings":
        return list(sources)
    _check_frozen(config, start.params)
    tower = _make_tower(config, start, mesh)
    blank_D = _run(tower, lambda _: _pixels(Blank(), tower.crops), 1)[0]
    return [_embed(source, tower, blank_D, staging.root(config.data.cache_dir)) for source in sources]


def _check_frozen(config: Config, params: Params) -> None:
    factors = optim.multipliers(config.optim, params)["image"]
    trained = [path_string(path) for path, factor in jax.tree_util.tree_leaves_with_path(factors) if factor]
    if trained:
        raise UserError(
            f"config.data.cache is 'embeddings', but config.optim.lr_multipliers trains image/{trained[0]}: freeze the "
            "image tower with ('image/.*', 0.0) as the first multiplier, or set config.data.cache to 'decoded'"
        )


def _make_tower(config: Config, start: Start, mesh: Mesh) -> _Tower:
    model, processor = start.model, start.processor

    def encode(params: Params, images_IHWC: jax.Array) -> jax.Array:
        return model.encode_image(params, normalize(images_IHWC, processor.mean, processor.std))

    params = {"image": start.params["image"]}
    whole = multihost_utils.process_allgather(params, tiled=True) if jax.process_count() > 1 else params
    shards = batch_shards(mesh)
    return _Tower(
        jax.jit(encode, out_shardings=NamedSharding(mesh, PartitionSpec())),
        start.params,
        Crops(model.config.image.size, config.data.crop_scale, config.data.shrink_by),
        batch_sharding(mesh),
        math.ceil(_TOGETHER / shards) * shards * 2,
        model_fingerprint(model, whole, processor),
    )


def _embed(source: Source, tower: _Tower, blank_D: np.ndarray, root: Path) -> Source:
    """``source`` with its embeddings, in a folder of ``root``."""
    items, sizes = source.items, embedded.block_sizes(len(source.items.image_ids))
    key = {
        "version": VERSION,
        "source": items.name,
        "content": decoded_writer.identity(source),
        "images": _sampled(source),
        "model": tower.fingerprint,
        **tower.crops._asdict(),
    }
    folder = root / "embedded" / hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    storage.write(epath.Path(folder / "meta.json"), json.dumps(key | {"count": sum(sizes)}, indent=1))
    own = np.array([not _is_whole(folder, block, size, len(blank_D)) for block, size in enumerate(sizes)])
    missing = multihost_utils.process_allgather(own).any(axis=0) if jax.process_count() > 1 else own
    needed = 8 * len(blank_D) * int(np.array(sizes) @ own)
    if missing.any():
        _LOG.info("%s: embedding %s images into %s: %.3g GB", items.name, f"{len(items):,}", folder, needed / 1e9)
        object_folders.check_space(folder, needed, f"embeddings of {items.name}")
    is_used_N = np.zeros(len(items.image_ids), bool)
    is_used_N[items.images(np.arange(len(items)))] = True
    for done, block in enumerate(np.flatnonzero(missing).tolist(), 1):
        preemption.check()
        numbers = block * BLOCK + np.flatnonzero(is_used_N[block * BLOCK : block * BLOCK + sizes[block]])
        z_N2D = np.zeros((sizes[block], 2, len(blank_D)), np.float32)
        rows = _run(tower, _reader(source, tower.crops, numbers), 2 * len(numbers))
        z_N2D[numbers - block * BLOCK] = rows.reshape(len(numbers), 2, -1)
        if own[block]:
            embedded.write(folder, block, z_N2D)
        _LOG.info("%s: embedded %d of %d blocks", items.name, len(sizes) - missing.sum() + done, len(sizes))
    return dataclasses.replace(source, embedded=Embedded(folder, sum(sizes), blank_D))


def _is_whole(folder: Path, block: int, size: int, dim: int) -> bool:
    """Whether a block is there. One that is damaged is embedded again."""
    try:
        embedded.check(folder, block, size, dim)
    except FileNotFoundError:
        return False
    except ValueError as error:
        _LOG.warning("%s; the block is embedded again", error)
        return False
    return True


def _sampled(source: Source) -> str:
    """A digest of some of the encoded images: files may change while the records stay as they are."""
    digest = xxhash.xxh3_64()
    for n in decoded_writer.sample(source.items):
        digest.update(_named(source, n, source.read_image))
    return digest.hexdigest()


def _reader(source: Source, crops: Crops, numbers: np.ndarray) -> Read:
    """Row 2k is the image ``numbers[k]``, row 2k + 1 the same mirrored."""

    def read(row: int) -> np.ndarray:
        n = int(numbers[row // 2])
        return _named(source, n, lambda n: _pixels(Encoded.of(source.read_image(n)), crops, mirrored=row % 2 == 1))

    return read


def _named(source: Source, n: int, read: Callable[[int], T]) -> T:
    """``read(n)``; its errors name the image."""
    try:
        return read(n)
    except (ValueError, OSError) as error:
        raise UserError(f"{source.items.name}, image {source.items.image_ids[n]!r}: {error}") from error


def _pixels(image: Encoded | Blank, crops: Crops, mirrored: bool = False) -> np.ndarray:
    """What the pipeline makes of an image if boxes are not random."""
    side = min(image.width, image.height)
    box = Box((image.width - side) // 2, (image.height - side) // 2, side, side, mirrored)
    out = np.empty((crops.size, crops.size, 3), np.uint8)
    image.fill(box, out, crops.shrink_by)
    return out


def _run(tower: _Tower, read: Read, rows: int) -> np.ndarray:
    """Embeddings [rows, D]. The next batch is read while one is computed."""
    size, results, pending = tower.crops.size, [], None
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, rows, tower.batch):

            def part(index: tuple[slice, ...] | None, first: int = first) -> np.ndarray:
                start, stop, _ = index[0].indices(tower.batch) if index else (0, tower.batch, 1)
                own = range(first + start, min(first + stop, rows))
                block = np.zeros((stop - start, size, size, 3), np.uint8)
                block[: len(own)] = list(pool.map(read, own)) or block[:0]
                return block

            images = jax.make_array_from_callback((tower.batch, size, size, 3), tower.sharding, part)
            result = tower.encode(tower.params, images)
            if pending is not None:
                results.append(np.asarray(pending))
            pending = result
    return np.concatenate([*results, np.asarray(pending)])[:rows]
