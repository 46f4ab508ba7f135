"""Decodes the images of a source once, into the files that ``decoded.py`` describes: in parallel, and once for all
processes of a host.

A block gets its name once it is complete, so after an interruption, only missing blocks are decoded.

Shape letters: N images.
"""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.images.boxes import is_fixed
from naturel_jax.data.items import decoded
from naturel_jax.data.items.decoded import BLOCK, ROW, Decoded
from naturel_jax.data.items.index_writer import parallel
from naturel_jax.data.items.items import Items, Source
from naturel_jax.storage import object_folders, once
from naturel_jax.storage.locks import locked
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

VERSION = 1
_SAMPLE = 64  # images that the size is estimated from, and that are compared to find out whether files have changed


def decode(source: Source, crops: Crops, root: Path, workers: int = 0) -> Source:
    """``source`` with its decoded images, for ``crops``, in a folder of ``root``. ``workers``: processes; 0: one per
    core.

    Raises UserError for an image that is not readable, and OSError if the disk has too little space.
    """
    items, content = source.items, identity(source)
    if not is_fixed(crops.scale):  # large images are shrunk by area, and ``shrink_by`` applies to what is cropped later
        crops = crops._replace(shrink_by="area")
    key = {"version": VERSION, "source": items.name, "content": content, **crops._asdict()}
    folder = once.folder_of(root / "decoded", key)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / once.LOCK):
        once.write_meta(folder, key | {"images": len(items.image_ids)})
        _build(_Decoder(items.name, source.read_image, crops, folder), items, workers)
    images = Decoded(folder, crops, source.read_image, len(items.image_ids))
    return dataclasses.replace(source, decoded=images)


def identity(source: Source) -> str:
    """Digest of the records and, if known, their files: an index gets another folder once these change."""
    digest = hashlib.blake2b(f"{source.content}\n{Path(source.origin.cache).name}\n".encode(), digest_size=16)
    for name in source.items.image_ids:
        digest.update(f"{name}\n".encode(errors="surrogatepass"))
    digest.update(source.items.left_out.tobytes())
    return digest.hexdigest()


def sample(items: Items) -> list[int]:
    """Some of the images that are trained on, evenly spread."""
    numbers = items.images(np.arange(len(items)))
    chosen: list[int] = numbers[np.linspace(0, len(numbers) - 1, min(_SAMPLE, len(numbers))).astype(np.int64)].tolist()
    return chosen


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """What the decoding processes are given. ``read``: number -> encoded image."""

    name: str
    read: Callable[[int], bytes]
    crops: Crops
    folder: Path

    def encoded(self, n: int, image_id: str) -> bytes:
        """Raises UserError for an image that cannot be read."""
        try:
            return self.read(n)
        except (ValueError, OSError) as error:
            raise self._with_name(image_id, error) from error

    def keep(self, n: int, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of an image and its ``ROW``, without its start. Raises UserError."""
        data = self.encoded(n, image_id)
        try:
            pixels, row = decoded.keep(data, self.crops)
        except ValueError as error:
            raise self._with_name(image_id, error) from error
        row["pixels"], row["encoded"] = xxhash.xxh3_64_intdigest(pixels.data), xxhash.xxh3_64_intdigest(data)
        return pixels, row

    def _with_name(self, image_id: str, error: Exception) -> UserError:
        check = "python -m naturel_jax.data.check lists all such images, and they are then left out"
        return UserError(f"{self.name}, image {image_id!r}: {error}; {check}")

    def write(self, block: int, is_used: np.ndarray, image_ids: Sequence[str]) -> None:
        """Decodes the images of a block that are trained on; the others have no pixels."""
        rows, start = [], 0
        partial = decoded.pixels_path(self.folder, block).with_suffix(".partial")
        with storage.naming(epath.Path(partial)), partial.open("wb") as file:
            for n, (used, image_id) in enumerate(zip(is_used.tolist(), image_ids, strict=True), block * BLOCK):
                row = np.zeros((), ROW)
                if used:
                    pixels, row = self.keep(n, image_id)
                    file.write(pixels.data)
                    row["start"], start = start, start + pixels.nbytes
                rows.append(row)
        once.write_block(decoded.rows_path(self.folder, block), np.array(rows, ROW).tobytes())
        partial.replace(decoded.pixels_path(self.folder, block))

    def has_changed(self, n: int, image_id: str) -> bool:
        """Whether an image is not the one that was decoded. Raises UserError."""
        row = decoded.read_rows(self.folder, n // BLOCK)[n % BLOCK]
        return bool(xxhash.xxh3_64_intdigest(self.encoded(n, image_id)) != row["encoded"])


def _build(images: _Decoder, items: Items, workers: int) -> None:
    """Decodes the blocks that are missing or damaged; all of them if an image of a sample has changed."""
    count, is_used_N = len(items.image_ids), np.zeros(len(items.image_ids), bool)
    is_used_N[items.images(np.arange(len(items)))] = True
    some = sample(items)
    blocks = range(math.ceil(count / BLOCK))
    missing = [block for block in blocks if not once.is_whole(decoded.read_rows, images.folder, block)]
    known = [(n, items.image_ids[n]) for n in some if n // BLOCK not in missing]
    if changed := [name for n, name in known if images.has_changed(n, name)]:
        _LOG.warning("%s: image %r is not the one that was decoded; all are decoded again", items.name, changed[0])
        missing = list(blocks)
        for block in blocks:  # so that all are missing after an interruption
            decoded.rows_path(images.folder, block).unlink(missing_ok=True)
    if not missing:
        return
    parts = [slice(block * BLOCK, (block + 1) * BLOCK) for block in missing]
    bytes_each = np.mean([images.keep(n, items.image_ids[n])[0].nbytes for n in some])
    needed = int(bytes_each * sum(is_used_N[part].sum() for part in parts))
    _LOG.info(
        "%s: decoding %s images for a model of %d pixels into %s: about %.3g GB, of which %.3g GB are missing",
        items.name, f"{len(items):,}", images.crops.size, images.folder, bytes_each * len(items) / 1e9, needed / 1e9,
    )  # fmt: skip
    object_folders.check_space(images.folder, needed, f"decoded images of {items.name}")
    jobs = [(block, is_used_N[part], items.image_ids[part]) for block, part in zip(missing, parts, strict=True)]
    for done, _ in enumerate(parallel(images.write, jobs, workers), 1):
        _LOG.info("%s: decoded %d of %d blocks", items.name, len(blocks) - len(missing) + done, len(blocks))
