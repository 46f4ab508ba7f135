"""Images of any aspect ratio, as SigLIP 2's NaFlex models take them (arXiv 2502.14786): each is cut into a grid of
patches of its own, up to a number that is the same for all.

Shape letters: I images, P patches (those of an image in row-major order, then padding), V values of a patch (rows,
columns, channels), G rows or columns of the table of positions, D width; a trailing 2 means rows and columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any  # a NumPy array on the host, a jax.Array on devices


class Patches(NamedTuple):
    """Images [I, P, V], uint8 or normalized, and the grid of each, int32 [I, 2], at least 1 x 1."""

    patches_IPV: Array
    grid_I2: Array

    @property
    def lengths_I(self) -> Array:
        """How many patches each image has."""
        return self.grid_I2[:, 0] * self.grid_I2[:, 1]


def normalize(images: Patches, mean: tuple[float, ...], std: tuple[float, ...]) -> Patches:
    """uint8 patches as ``two_tower.normalize`` makes them, float32; padding is 0, as in transformers."""
    values, count = images.patches_IPV.astype(jnp.float32) / 255.0, images.patches_IPV.shape[-1] // 3
    values = (values - jnp.tile(jnp.asarray(mean), count)) / jnp.tile(jnp.asarray(std), count)
    is_own_IP = jnp.arange(values.shape[1]) < images.lengths_I[:, None]
    return images._replace(patches_IPV=jnp.where(is_own_IP[..., None], values, 0.0))


def embed(images: Patches, table_GD: jax.Array, layer: Callable[[jax.Array], jax.Array], dtype: str) -> jax.Array:
    """The blocks' input [I, P, D] for normalized images: patches through a linear ``layer``, and positions."""
    position_IPD = positions(table_GD, images.grid_I2, images.patches_IPV.shape[1])
    return layer(images.patches_IPV.astype(dtype)) + position_IPD.astype(dtype)


def positions(table_GD: jax.Array, grid_I2: jax.Array, count: int) -> jax.Array:
    """Position embeddings [I, P, D], float32, of ``count`` patches: the square ``table_GD`` [G * G, D], its rows one
    after another, resized to the grid of each image with an antialiased bilinear filter. Padding has the last row's."""
    side = round(len(table_GD) ** 0.5)
    rows_I1, columns_I1 = grid_I2[:, :1], grid_I2[:, 1:]
    number_P = jnp.arange(count)
    row_IP, column_IP = jnp.minimum(number_P // columns_I1, rows_I1 - 1), number_P % columns_I1
    vertical_IPG, horizontal_IPG = _filter(row_IP, rows_I1, side), _filter(column_IP, columns_I1, side)
    weights = vertical_IPG[..., :, None] * horizontal_IPG[..., None, :]
    return jnp.matmul(weights.reshape(*row_IP.shape, -1), table_GD.astype(jnp.float32), precision="highest")


def _filter(index_IP: jax.Array, size_I1: jax.Array, side: int) -> jax.Array:
    """Weights [I, P, G], which add up to 1, of ``side`` samples in the sample ``index_IP`` of ``size_I1``: a triangle,
    as wide as a new sample if there are fewer than before (Pillow's and torch's antialiasing)."""
    scale_I1 = side / size_I1.astype(jnp.float32)
    centre_IP = (index_IP + 0.5) * scale_I1 - 0.5
    distance_IPG = jnp.abs(jnp.arange(side) - centre_IP[..., None]) / jnp.maximum(scale_I1, 1.0)[..., None]
    weights_IPG = jnp.maximum(1.0 - distance_IPG, 0.0)
    return weights_IPG / weights_IPG.sum(axis=-1, keepdims=True)
