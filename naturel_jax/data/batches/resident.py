"""Decoded images in the memory of the devices (``config.data.cache`` is ``device``).

Each image is on one shard of the batch axes. A batch is made where its images are: each device crops, resizes and
mirrors its own images into slots, and sends these to the devices that train on them. So images travel at the model's
size, and besides the images, a device needs memory for a few times its part of a batch.

Crops are those that ``decoded.Kept.copy`` copies, resized by the same code (``on_device.py``), so the pixels are those
of ``config.data.cache = 'decoded'`` with ``config.data.augment_on = 'device'``.

A shard is a table of lines, as long as the longest short side of any image. An image takes as many lines as its long
side has pixels, and is transposed if it is wide. So a crop is in consecutive lines, and little memory is lost if short
sides are equal, as in photos that were shrunk.

Shape letters: N images of all sources, D shards, L lines of a shard, B bytes of a line, S slots of a shard, R rows of a
batch, K of which are not blank; H, W, X, Y pixels.
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

from naturel_jax.data.images.augment import WHITE, Crops
from naturel_jax.data.images.boxes import Box, Boxes, is_fixed
from naturel_jax.data.images.on_device import IMAGES_AT_A_TIME, resize
from naturel_jax.data.items.decoded import Decoded, edges, longest
from naturel_jax.data.items.items import Source
from naturel_jax.devices import preemption
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

PIECE = 1 << 18  # lines copied to a device at a time, about a kilobyte each
_UNIT = 4  # the slots of a pair of devices are rounded up to a multiple of this, or of half of their average number
_USUAL = 4 / 3  # width to height of a photo


class Slots(NamedTuple):
    """What the devices need to know about a batch.

    crops_DS6: for each slot of a shard, int32: the first line of its crop and the first pixel in each line, whether the
    image is transposed, and the sides and mirroring that ``on_device.resize`` takes. from_R: int32, for each row, the
    slot that it receives, counted among those that its device receives; one past the last for the blank image.
    """

    crops_DS6: np.ndarray
    from_R: np.ndarray


class ShardLayout(NamedTuple):
    """Where the images are: in ``lines`` of ``line`` pixels on each shard, image n from line ``line_N[n]`` of
    ``shard_N[n]`` on. ``rows_N`` has dtype ``decoded.ROW``; ``first``: the number of the first image of each source;
    ``box``: height and width within which every crop fits."""

    shards: int
    lines: int
    line: int
    box: tuple[int, int]
    first: np.ndarray
    rows_N: np.ndarray
    shard_N: np.ndarray
    line_N: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """[D, L, B] of all shards."""
        return self.shards, self.lines, 3 * self.line

    def numbers(self, source_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        """The numbers of these items; -1 for the blank image, whose source is -1."""
        return np.where(source_R < 0, -1, self.first[source_R] + item_R)

    def sides(self, number_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Widths and heights of images, before any part was cut off or shrunk; 1 for the blank image."""
        width_R, height_R = (self.rows_N[side][number_R].astype(np.int64) for side in ("width", "height"))
        return np.where(number_R < 0, 1, width_R), np.where(number_R < 0, 1, height_R)

    def slots(self, number_R: np.ndarray, boxes: Boxes) -> Slots:
        """How to make the rows of a batch, ``boxes`` of these images. There is room for as many slots as the busiest
        pair of devices needs, rounded up since the gather is compiled for each number of slots."""
        length = len(number_R) // self.shards
        row_K = np.flatnonzero(number_R >= 0)
        shard_K, target_K = self.shard_N[number_R[row_K]], row_K // length
        pair_K = shard_K * self.shards + target_K
        count = np.bincount(pair_K, minlength=self.shards**2)
        order, start = np.argsort(pair_K, kind="stable"), np.cumsum(count) - count
        place_K = np.empty(len(row_K), np.int64)
        place_K[order] = np.arange(len(order)) - start[pair_K[order]]
        unit = max(_UNIT, math.ceil(length / self.shards / 2))
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
        is_wide = width > height
        line, pixel = (left, top) if is_wide else (top, left)
        return int(self.line_N[n]) + line, pixel, is_wide, bottom - top, right - left, box.mirrored


def lay_out(images: Sequence[Decoded], shards: int) -> ShardLayout:
    """Spreads the decoded images of all sources evenly over ``shards``."""
    rows_N = np.concatenate([one.rows_N for one in images])
    long_N = np.maximum(rows_N["kept_width"], rows_N["kept_height"]).astype(np.int64)
    shard_N, line_N = np.zeros((2, len(rows_N)), np.int64)
    used = np.flatnonzero(long_N)
    shard_N[used] = np.arange(len(used)) % shards
    for shard in range(shards):
        own = used[shard::shards]
        line_N[own] = np.cumsum(long_N[own]) - long_N[own]
    height, width = np.max([one.largest_box for one in images], axis=0).tolist()
    lines = int(line_N.max()) + int(long_N.max()) + max(height, width)  # this many are read from a crop's first line on
    line = int(np.minimum(rows_N["kept_width"], rows_N["kept_height"]).max())
    first = np.cumsum([0, *(len(one.rows_N) for one in images[:-1])])
    return ShardLayout(shards, lines, line, (height, width), first, rows_N, shard_N, line_N)


def estimated_shape(sources: Sequence[Source], crops: Crops, shards: int) -> tuple[int, int, int]:
    """``ShardLayout.shape`` of images that are not decoded yet, taken for 4:3 photos that have to be shrunk."""
    short = crops.size if is_fixed(crops.scale) else longest(crops)
    long = short if is_fixed(crops.scale) else math.ceil(short * _USUAL)
    return shards, math.ceil(sum(len(source.items) for source in sources) / shards) * long, 3 * short


# ---- On the devices --------------------------------------------------------------------------------------------------


def load(layout: ShardLayout, sources: Sequence[Source], sharding: NamedSharding) -> jax.Array:
    """The lines of all shards, uint8 [D, L, B]; each process reads those of its devices, a piece at a time.

    Raises UserError for an image that is damaged and cannot be decoded again; may raise Stopped.
    """
    shape = layout.shape
    shards = {d: index[0].start or 0 for d, index in sharding.addressable_devices_indices_map(shape).items() if index}
    arrays = {device: jnp.zeros((1, *shape[1:]), jnp.uint8, device=device) for device in shards}
    size = math.prod(shape[1:]) / 1e9
    _LOG.info("loading the decoded images into the memory of the devices: %.3g GB on each", size)
    write = jax.jit(lambda whole, part, line: jax.lax.dynamic_update_slice(whole, part, (0, line, 0)), donate_argnums=0)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for line in range(0, layout.lines, PIECE):
            preemption.check()
            for shard in sorted(set(shards.values())):
                piece_1LB = _read(layout, sources, shard, line, pool)
                for device in (device for device, own in shards.items() if own == shard):
                    arrays[device] = write(arrays[device], jax.device_put(piece_1LB, device), line)
                    arrays[device].block_until_ready()  # so that only one piece is in flight
    return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays.values()))


def _read(
    layout: ShardLayout, sources: Sequence[Source], shard: int, line: int, pool: concurrent.futures.Executor
) -> np.ndarray:
    """A piece of a shard, from ``line`` on: uint8 [1, L, B]."""
    piece_LX3 = np.zeros((min(layout.lines - line, PIECE), layout.line, 3), np.uint8)

    def copy(n: int) -> None:
        pixels_HW3, at = _pixels(layout, sources, n), int(layout.line_N[n]) - line
        lines_YX3 = pixels_HW3.swapaxes(0, 1) if pixels_HW3.shape[1] > pixels_HW3.shape[0] else pixels_HW3
        first, stop = max(at, 0), min(at + len(lines_YX3), len(piece_LX3))
        piece_LX3[first:stop, : lines_YX3.shape[1]] = lines_YX3[first - at : stop - at]

    long_N = np.maximum(layout.rows_N["kept_width"], layout.rows_N["kept_height"])
    first_N, stop_N = layout.line_N - line, layout.line_N + long_N - line
    within_N = (layout.shard_N == shard) & (long_N > 0) & (stop_N > 0) & (first_N < len(piece_LX3))
    for _ in pool.map(copy, np.flatnonzero(within_N).tolist()):
        pass
    return piece_LX3.reshape(1, len(piece_LX3), -1)


def _pixels(layout: ShardLayout, sources: Sequence[Source], n: int) -> np.ndarray:
    """Image ``n``, uint8 [H, W, 3]."""
    number = int(np.searchsorted(layout.first, n, side="right")) - 1
    source, item = sources[number], n - int(layout.first[number])
    assert source.decoded  # ``lay_out`` needs it
    try:
        return source.decoded[item].pixels
    except (ValueError, OSError) as error:
        raise UserError(f"{source.items.name}, image {source.items.image_ids[item]!r}: {error}") from error


def make_gather(layout: ShardLayout, size: int, sharding: NamedSharding) -> Callable[..., jax.Array]:
    """``gather(lines_DLB, crops_DS6, from_R) -> images``: from what ``load`` returns and ``Slots``, to uint8
    [R, size, size, 3]; all are sharded over their leading axis."""
    (height, width), spec = layout.box, sharding.spec
    side = max(height, width)

    def gather(lines_1LB: jax.Array, crops_1S6: jax.Array, from_R: jax.Array) -> jax.Array:
        def cut(crop_6: jax.Array) -> jax.Array:
            lines_YX3 = jax.lax.dynamic_slice_in_dim(lines_1LB[0], crop_6[0], side).reshape(side, -1, 3)
            return jnp.roll(lines_YX3, -crop_6[1], axis=1)

        def make(slot: tuple[jax.Array, jax.Array]) -> jax.Array:
            lines_YX3, crop_6 = slot
            upright, turned = (_fit(lines, height, width) for lines in (lines_YX3, lines_YX3.swapaxes(0, 1)))
            return resize((jnp.where(crop_6[2] == 1, turned, upright), crop_6[3:]), size)

        lines = jax.lax.map(cut, crops_1S6[0])  # one at a time: a TPU would copy all images to cut several
        images = jax.lax.map(make, (lines, crops_1S6[0]), batch_size=IMAGES_AT_A_TIME)
        images = jax.lax.all_to_all(images, spec[0], split_axis=0, concat_axis=0, tiled=True)
        return images.at[from_R].get(mode="fill", fill_value=WHITE)

    local = jax.shard_map(gather, mesh=sharding.mesh, in_specs=spec, out_specs=spec)
    return jax.jit(local, in_shardings=sharding, out_shardings=sharding)


def _fit(pixels_YX3: jax.Array, height: int, width: int) -> jax.Array:
    """An image cropped or padded at the far edges to [height, width, 3]."""
    cut_YX3 = pixels_YX3[:height, :width]
    return jnp.pad(cut_YX3, ((0, height - cut_YX3.shape[0]), (0, width - cut_YX3.shape[1]), (0, 0)))
