"""Resizes and mirrors the crops of a batch on the devices that hold them (``config.data.augment_on``).

Shape letters: I images, H, W pixels. The boxes are those that the host draws; it only copies their pixels.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

IMAGES_AT_A_TIME = 16  # images in float32 at a time, 3 MB each


def make_resize(size: int, sharding: NamedSharding) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``resize(crops_IHWC, sides_I3) -> images``, for a batch sharded this way; nothing is passed between devices.

    ``crops_IHWC``: uint8, each crop in the corner of its array, the rest undefined. ``sides_I3``: int32, its
    height and width, and 1 to mirror it. ``images``: uint8 [I, size, size, 3].
    """
    resize_all = functools.partial(jax.lax.map, functools.partial(resize, size=size), batch_size=IMAGES_AT_A_TIME)
    spec = sharding.spec
    local = jax.shard_map(lambda *arrays: resize_all(arrays), mesh=sharding.mesh, in_specs=spec, out_specs=spec)
    return jax.jit(local, in_shardings=sharding, out_shardings=sharding)


def resize(image: tuple[jax.Array, jax.Array], size: int) -> jax.Array:
    """One crop and its sides (see ``make_resize``) to an image. Bilinear, like OpenCV's INTER_LINEAR: pixel centres
    are at halves, edges are repeated, and larger crops are not averaged."""
    crop_HWC, sides_3 = image
    rows = _weights(sides_3[0], size, crop_HWC.shape[0])
    columns = _weights(sides_3[1], size, crop_HWC.shape[1])
    columns = jnp.where(sides_3[2] == 1, columns[::-1], columns)
    # Weights would be rounded to 8 bits where products default to bfloat16.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGH)
    narrow = product("xw,hwc->hxc", columns, crop_HWC.astype(jnp.float32))
    return jnp.round(product("yh,hxc->yxc", rows, narrow)).clip(0, 255).astype(jnp.uint8)


def _weights(side: jax.Array, size: int, length: int) -> jax.Array:
    """Weight of each of the first ``side`` of ``length`` pixels in each of ``size`` pixels, [size, length]."""
    place = jnp.clip((jnp.arange(size) + 0.5) * (side / size) - 0.5, 0, side - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(length)), 0)
