"""Visits every tile (the images of a device against some of the captions that are there) of a matrix that no device
holds in full.

Blocks of captions travel around a ring of devices (``ppermute`` inside ``jax.shard_map``), in one direction, or half of
each block in each direction, and are split into smaller tiles on the device. The backward pass revisits the tiles
instead of storing their results. A device's memory therefore does not grow with the number of devices.

Shape letters: I images, U distinct captions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from naturel_jax.devices.sharding import ring_order

EXCHANGES = ("ring", "two_way_ring", "gather")  # how captions reach the images of other devices


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the matrix is tiled. If ``mesh`` is None or ``exchange`` is ``gather``, it is one block, and the compiler
    gathers what is sharded. Otherwise, blocks are sharded over ``axes`` of ``mesh``, and captions travel around a ring.

    ``tile``: the largest number of captions in a tile; None: a block is one tile. Tiles have the largest divisor of the
    block's size that is at most ``tile``; if that is below half of ``tile``, they have half of it, the last one fewer.
    Raises ValueError for an exchange that is not in ``EXCHANGES``.
    """

    mesh: Mesh | None = None
    axes: tuple[str, ...] = ("data", "fsdp")
    tile: int | None = None
    exchange: str = "ring"

    def __post_init__(self) -> None:
        if self.exchange not in EXCHANGES:
            raise ValueError(f"exchange {self.exchange!r}: expected one of {EXCHANGES}")

    @property
    def ring(self) -> list[int]:
        """The devices that the captions travel around, as positions along ``axes``."""
        return [0] if self.mesh is None or self.exchange == "gather" else ring_order(self.mesh, self.axes)

    def send(self, block: Any) -> Any:
        """Moves a block of captions, or of their sums, on by one device of the ring, inside ``jax.shard_map``. In a
        two-way ring, the first half of its rows moves forward and the second backward, at the same time. After as many
        moves as there are devices, both are where they started."""
        forward = list(zip(self.ring, self.ring[1:] + self.ring[:1], strict=True))
        backward = [(end, start) for start, end in forward]

        def move(x: jax.Array) -> jax.Array:
            half = (len(x) + 1) // 2 if self.exchange == "two_way_ring" else len(x)
            parts = ((x[:half], forward), (x[half:], backward))
            return jnp.concatenate([jax.lax.ppermute(part, self.axes, to) for part, to in parts if len(part)])

        return jax.tree.map(move, block)


DENSE = Layout()


def _sweep_block(
    visit: Callable, tile: int | None, images: Any, captions: Any, image_sums: Any, shared: Any
) -> tuple[Any, Any]:
    """Visits the tiles of one block of captions; returns the updated ``image_sums`` and the captions' own sums."""
    size = jax.tree.leaves(captions)[0].shape[0]
    limit = min(tile or size, size)
    # A block of a prime number of captions would give tiles of one, so at least half of the limit; and only half if the
    # last tile is smaller, since buffers of both shapes are live.
    tile = max((limit + 1) // 2, *(t for t in range(1, limit + 1) if size % t == 0))
    whole = size - size % tile
    cut = functools.partial(jax.tree.map, lambda x: x[:whole].reshape(-1, tile, *x.shape[1:]))
    join = functools.partial(jax.tree.map, lambda x: x.reshape(whole, *x.shape[2:]))

    def step(image_sums: Any, captions: Any) -> tuple[Any, Any]:
        return visit(images, captions, image_sums, shared)

    image_sums, own = jax.lax.scan(step, image_sums, cut(captions))
    own = join(own)
    if whole < size:
        image_sums, last = step(image_sums, jax.tree.map(lambda x: x[whole:], captions))
        own = jax.tree.map(lambda *parts: jnp.concatenate(parts), own, last)
    return image_sums, own


def sweep(
    visit: Callable,
    add: Callable,
    layout: Layout,
    images: Any,
    captions: Any,
    image_sums: Any,
    caption_sums: Any,
    shared: Any,
) -> tuple[Any, Any]:
    """Visits every tile once and returns the updated sums.

    ``visit(images, captions, image_sums, shared)`` returns new ``image_sums`` and the tile's contribution to the
    sums of its captions, which ``add(caption_sums, contribution)`` merges. The leading axis of ``images`` and
    ``image_sums`` is I (or ``image_sums`` is a scalar, then summed over devices), of ``captions`` and ``caption_sums``
    U. The given ``caption_sums`` hold the identity of ``add`` in each row, since the first hop sends them to another
    device. ``shared``: scalars that every tile needs, such as scale and bias.
    """
    block = functools.partial(_sweep_block, visit, layout.tile)
    hops = len(layout.ring) - 1
    if not hops:
        image_sums, own = block(images, captions, image_sums, shared)
        return image_sums, add(caption_sums, own)

    def ring_sweep(images: Any, captions: Any, image_sums: Any, caption_sums: Any, shared: Any) -> tuple[Any, Any]:
        # The next block and the sums of this one travel while the tiles of this one are computed. So sums are one hop
        # behind their block: the first hop sends identities, ``arrived`` catches up, and the last hop brings them home.
        def step(_: jax.Array, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            captions, image_sums, caption_sums = carry
            upcoming, caption_sums = layout.send((captions, caption_sums))
            image_sums, own = block(images, captions, image_sums, shared)
            return upcoming, image_sums, add(caption_sums, own)

        carry = jax.lax.fori_loop(0, hops, step, (captions, image_sums, caption_sums))
        captions, image_sums, caption_sums = carry
        arrived = layout.send(caption_sums)
        image_sums, own = block(images, captions, image_sums, shared)
        image_sums = jax.tree.map(lambda x: x if x.ndim else jax.lax.psum(x, layout.axes), image_sums)
        return image_sums, layout.send(add(arrived, own))

    def specs(tree: Any) -> Any:
        return jax.tree.map(lambda x: PartitionSpec(layout.axes) if x.ndim else PartitionSpec(), tree)

    rows, cols = specs(image_sums), specs(caption_sums)
    return jax.shard_map(
        ring_sweep,
        mesh=layout.mesh,
        in_specs=(specs(images), specs(captions), rows, cols, specs(shared)),
        out_specs=(rows, cols),
        check_vma=False,  # sums are equal on all devices at first, and differ in the end
    )(images, captions, image_sums, caption_sums, shared)


class Side(NamedTuple):
    """One side of a tile: ``values`` are differentiated, ``labels`` are not."""

    values: Any
    labels: Any


_add = functools.partial(jax.tree.map, jnp.add)


def _primal(tile_loss: Callable, layout: Layout, images: Side, captions: Side, shared: Any) -> jax.Array:
    """Sum over all tiles of ``tile_loss(images, captions, shared) -> scalar``; the backward pass recomputes the
    tiles."""

    def visit(images: Side, captions: Side, total: jax.Array, shared: Any) -> tuple[jax.Array, Any]:
        return total + tile_loss(images, captions, shared), ()

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(images.values)))
    return sweep(visit, _add, layout, images, captions, zero, (), shared)[0]


def gradients(
    tile_loss: Callable, layout: Layout, images: Side, captions: Side, shared: Any, upstream: jax.Array
) -> tuple[Any, Any, Any]:
    """Gradients of ``upstream * total_over_tiles`` for ``images.values``, ``captions.values`` and ``shared``."""

    def visit(images: Side, captions: Side, sums: Any, shared: Any) -> tuple[Any, Any]:
        def scalar(image_values: Any, caption_values: Any, shared: Any) -> jax.Array:
            return tile_loss(images._replace(values=image_values), captions._replace(values=caption_values), shared)

        dimages_tile, dcaptions_tile, dshared_tile = jax.grad(scalar, argnums=(0, 1, 2))(
            images.values, captions.values, shared
        )
        return _add(sums, (dimages_tile, dshared_tile)), dcaptions_tile

    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    sums, dcaptions = (zeros(images.values), zeros(shared)), zeros(captions.values)
    (dimages, dshared), dcaptions = sweep(visit, _add, layout, images, captions, sums, dcaptions, shared)
    return jax.tree.map(lambda g: g * upstream.astype(g.dtype), (dimages, dcaptions, dshared))


def _forward(tile_loss: Callable, layout: Layout, images: Side, captions: Side, shared: Any) -> tuple[jax.Array, Any]:
    return total_over_tiles(tile_loss, layout, images, captions, shared), (images, captions, shared)


def _backward(tile_loss: Callable, layout: Layout, saved: Any, upstream: jax.Array) -> tuple[Side, Side, Any]:
    images, captions, shared = saved
    dimages, dcaptions, dshared = gradients(tile_loss, layout, images, captions, shared, upstream)
    return Side(dimages, None), Side(dcaptions, None), dshared


total_over_tiles = jax.custom_vjp(_primal, nondiff_argnums=(0, 1))
total_over_tiles.defvjp(_forward, _backward)
