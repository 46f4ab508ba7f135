"""Decoded images in the memory of the devices (``config.data.cache`` is ``device``).

Each image lies on one shard of the batch axes. A batch is made where its images lie: each device crops, resizes and
mirrors the images that it has, in slots, and sends the contents of these to the devices that train on them. So an image
travels at the model's size, and besides the images, a device needs memory for a few times its part of a batch.

What is cropped is what ``decoded.Kept.copy`` copies, and what resizes it is the same (``on_device.py``), so the pixels
are those of ``config.data.cache = 'decoded'`` with ``config.data.augment_on = 'device'``.

Shape letters: N images of all sources, D shards, P pages of a shard, B bytes of a page, S slots of a shard, R rows of a
batch, K of which are not blank.
"""

import concurrent.futures
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from naturel_jax import preemption
from naturel_jax.data.augment import Crops
from naturel_jax.data.boxes import Box, Boxes, is_fixed
from naturel_jax.data.decoded import Decoded, edges, longest
from naturel_jax.data.items import Source
from naturel_jax.data.on_device import TOGETHER, resize
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)

PAGE = 1024  # bytes: each image starts with a page, and 32-bit numbers of pages reach far enough
PIECE = 1 << 18  # pages that are copied to a device at a time
_USUAL = 4 / 3  # width to height of a photo
_WHITE = 255


class Slots(NamedTuple):
    """What the devices are told of a batch.

    crops_DS6: for each slot of a shard, int32: the page on which its image begins, the first byte of the crop from
    there, the bytes from one line of the image to the next, and the sides and mirroring that ``on_device.resize``
    takes. from_R: int32, for each row, the slot that it receives, counting those that its device receives; one past
    the last for the blank image.
    """

    crops_DS6: np.ndarray
    from_R: np.ndarray


class Layout(NamedTuple):
    """Where the images lie. ``rows_N`` is of the type ``decoded.ROW``; ``first``: the number of the first image of each
    source; ``box``: height and width that every crop is within; ``window``: pages from the first of an image that
    every crop of it is within."""

    shards: int
    pages: int
    window: int
    box: tuple[int, int]
    first: np.ndarray
    rows_N: np.ndarray
    shard_N: np.ndarray
    page_N: np.ndarray

    def numbers(self, source_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        """The numbers of these items; -1 for the blank image, whose source is -1."""
        return np.where(source_R < 0, -1, self.first[source_R] + item_R)

    def sides(self, number_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Widths and heights of images, before any part of them was cut off or shrunk; 1 of the blank image."""
        width_R, height_R = (self.rows_N[side][number_R].astype(np.int64) for side in ("width", "height"))
        return np.where(number_R < 0, 1, width_R), np.where(number_R < 0, 1, height_R)

    def slots(self, number_R: np.ndarray, boxes: Boxes) -> Slots:
        """How the rows of a batch, boxes of these images, are made. There is room for as many slots as the busiest
        pair of devices needs, rounded up so that few numbers of slots occur: each compiles anew."""
        length = len(number_R) // self.shards
        row_K = np.flatnonzero(number_R >= 0)
        shard_K, target_K = self.shard_N[number_R[row_K]], row_K // length
        pair_K = shard_K * self.shards + target_K
        count = np.bincount(pair_K, minlength=self.shards**2)
        order, start = np.argsort(pair_K, kind="stable"), np.cumsum(count) - count
        place_K = np.empty(len(row_K), np.int64)
        place_K[order] = np.arange(len(order)) - start[pair_K[order]]
        unit = math.ceil(length / self.shards / 2)
        room = min(math.ceil(count.max() / unit) * unit, length)
        crops_DS6, box_R = np.zeros((self.shards, self.shards * room, 6), np.int32), boxes.each()
        for row, shard, slot in zip(
            row_K.tolist(), shard_K.tolist(), (target_K * room + place_K).tolist(), strict=True
        ):
            crops_DS6[shard, slot] = self._crop(number_R[row], box_R[row])
        from_R = np.full(len(number_R), self.shards * room, np.int32)
        from_R[row_K] = shard_K * room + place_K
        return Slots(crops_DS6, from_R)

    def _crop(self, n: int, box: Box) -> tuple[int, ...]:
        _, _, *part, width, height, _, _, _ = self.rows_N[n].tolist()
        top, bottom, left, right = edges(box, Box(*part), height, width)
        return int(self.page_N[n]), 3 * (top * width + left), 3 * width, bottom - top, right - left, box.mirrored


def lay_out(images: Sequence[Decoded], shards: int) -> Layout:
    """Spreads the decoded images of all sources evenly over ``shards``."""
    rows_N = np.concatenate([one.rows_N for one in images])
    bytes_N = 3 * rows_N["kept_width"].astype(np.int64) * rows_N["kept_height"]
    pages_N, used = -(-bytes_N // PAGE), np.flatnonzero(bytes_N)
    shard_N, page_N = np.zeros((2, len(rows_N)), np.int64)
    shard_N[used] = np.arange(len(used)) % shards
    for shard in range(shards):
        own = used[shard::shards]
        page_N[own] = np.cumsum(pages_N[own]) - pages_N[own]
    height, width = np.max([one.largest_box for one in images], axis=0).tolist()
    window = math.ceil((bytes_N.max() + 3 * width) / PAGE)  # the last line of a crop is read at its largest width
    pages = int((page_N + pages_N).max()) + window
    first = np.cumsum([0, *(len(one.rows_N) for one in images[:-1])])
    return Layout(shards, pages, window, (height, width), first, rows_N, shard_N, page_N)


def estimated_pages(sources: Sequence[Source], crops: Crops, shards: int) -> int:
    """Pages of a shard if the images are not decoded yet, as 4:3 photos that have to be shrunk."""
    short = crops.size if is_fixed(crops.scale) else longest(crops)
    long = short if is_fixed(crops.scale) else math.ceil(short * _USUAL)
    return math.ceil(sum(len(source.items) for source in sources) / shards) * math.ceil(3 * short * long / PAGE)


# ---- On the devices --------------------------------------------------------------------------------------------------


def load_pages(layout: Layout, sources: Sequence[Source], sharding: NamedSharding) -> jax.Array:
    """The pages of all shards, uint8 [D, P, B]; each process reads those of its devices, a piece at a time.

    Raises UserError for an image that is damaged and cannot be decoded again; may raise Stopped.
    """
    shape = (layout.shards, layout.pages, PAGE)
    shards = {d: index[0].start or 0 for d, index in sharding.addressable_devices_indices_map(shape).items() if index}
    arrays = {device: jnp.zeros((1, *shape[1:]), jnp.uint8, device=device) for device in shards}
    size = math.prod(shape[1:])
    _LOG.info("loading the decoded images into the memory of the devices: %.3g GB on each", size / 1e9)
    write = jax.jit(lambda whole, part, page: jax.lax.dynamic_update_slice(whole, part, (0, page, 0)), donate_argnums=0)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for page in range(0, layout.pages, PIECE):
            preemption.check()
            for shard in sorted(set(shards.values())):
                piece_1PB = _read(layout, sources, shard, page, pool)
                for device in (device for device, own in shards.items() if own == shard):
                    arrays[device] = write(arrays[device], jax.device_put(piece_1PB, device), page)
                    arrays[device].block_until_ready()  # so that no more than one piece is on its way
    return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays.values()))


def _read(
    layout: Layout, sources: Sequence[Source], shard: int, page: int, pool: concurrent.futures.Executor
) -> np.ndarray:
    """A piece of a shard, from ``page`` on: uint8 [1, P, B]."""
    piece = np.zeros((min(layout.pages - page, PIECE), PAGE), np.uint8)
    content, start = piece.reshape(-1), page * PAGE

    def copy(n: int) -> None:
        pixels = _pixels(layout, sources, n)
        at = int(layout.page_N[n]) * PAGE - start
        first, stop = max(at, 0), min(at + len(pixels), len(content))
        content[first:stop] = pixels[first - at : stop - at]

    bytes_N = 3 * layout.rows_N["kept_width"].astype(np.int64) * layout.rows_N["kept_height"]
    at_N = layout.page_N * PAGE - start
    within_N = (layout.shard_N == shard) & (bytes_N > 0) & (at_N + bytes_N > 0) & (at_N < len(content))
    for _ in pool.map(copy, np.flatnonzero(within_N).tolist()):
        pass
    return piece[None]


def _pixels(layout: Layout, sources: Sequence[Source], n: int) -> np.ndarray:
    """The bytes of image ``n``."""
    number = int(np.searchsorted(layout.first, n, side="right")) - 1
    source, item = sources[number], n - int(layout.first[number])
    assert source.decoded  # ``lay_out`` was given it
    try:
        return source.decoded[item].pixels.reshape(-1)
    except (ValueError, OSError) as error:
        raise UserError(f"{source.items.name}, image {source.items.image_ids[item]!r}: {error}") from error


def make_gather(layout: Layout, size: int, sharding: NamedSharding) -> Callable[..., jax.Array]:
    """``gather(pages_DPB, crops_DS6, from_R) -> images``: what ``load_pages`` returns and ``Slots``, all sharded over
    their leading axis, to uint8 [R, size, size, 3]."""
    (height, width), spec = layout.box, sharding.spec

    def crop(pages_PB: jax.Array, crop_6: jax.Array) -> jax.Array:
        content = jax.lax.dynamic_slice_in_dim(pages_PB, crop_6[0], layout.window).reshape(-1)
        lines = crop_6[1] + crop_6[2] * jnp.arange(height)
        cut = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(content, start, 3 * width))
        return cut(lines).reshape(height, width, 3)  # lines after the last of the crop are any others

    def gather(pages_1PB: jax.Array, crops_1S6: jax.Array, from_R: jax.Array) -> jax.Array:
        def make(crop_6: jax.Array) -> jax.Array:
            return resize((crop(pages_1PB[0], crop_6), crop_6[3:]), size)

        images = jax.lax.map(make, crops_1S6[0], batch_size=TOGETHER)
        images = jax.lax.all_to_all(images, spec[0], split_axis=0, concat_axis=0, tiled=True)
        return images.at[from_R].get(mode="fill", fill_value=_WHITE)

    local = jax.shard_map(gather, mesh=sharding.mesh, in_specs=spec, out_specs=spec)
    return jax.jit(local, in_shardings=sharding, out_shardings=sharding)
