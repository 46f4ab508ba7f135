"""How captions reach the images of other devices (``config.objective.exchange``): what each way costs, and which one
``auto`` becomes. docs/losses.md has the formulas, and compares them with compiled programs."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from naturel_jax.devices import hardware
from naturel_jax.devices.sharding import batch_shards, hosts, slices
from naturel_jax.losses.batch import Batch
from naturel_jax.losses.tiles import EXCHANGES
from naturel_jax.training import memory

_LOG = logging.getLogger(__name__)

_FLOAT = 4  # bytes: embeddings, logits and their gradients are float32
_PRODUCTS = 6  # bfloat16 products that make up a float32 one on TPUs, which split each number into three parts
_HOP = 1e-6  # seconds, for any message: jax-ml.github.io/scaling-book/sharding, "A note on ICI latency"
SHARE = 1 / 20  # share of a device's memory that the loss may take: the margins of remat's estimate are larger


class Sizes(NamedTuple):
    """Sizes of the loss on each of ``devices``: rows of images and captions, embedding width, captions per tile.
    ``hosts``: number of GPU hosts."""

    devices: int
    images: int
    captions: int
    width: int
    tile: int
    hosts: int = 1


class Cost(NamedTuple):
    """Cost of the loss and its gradient. ``waiting``: seconds in which a device only sends and receives; ``memory``:
    bytes of temporaries on each device."""

    waiting: float
    memory: int


def costs(kind: str, of: Sizes) -> dict[str, Cost] | None:
    """What each of ``EXCHANGES`` costs on devices of this ``jax.Device.device_kind``; None if their speed is not
    known. Counts one pass over the tiles for the value and one for the gradient; the softmax makes two of each."""
    peak, chip = hardware.peak(kind, "bfloat16"), hardware.find(kind)
    if peak is None or chip is None or chip.link is None:
        return None
    link = chip.link
    devices, images, captions, width, _, hosts = of
    block = _FLOAT * captions * width
    product = 2 * images * captions * width / (chip.float32 or peak / _PRODUCTS)  # a gradient takes two more
    gathered = chip.seconds("all-gather", devices * block, devices, hosts)

    def ring(name: str, directions: int) -> Cost:
        def hop(blocks: int) -> float:
            within = blocks * block / (min(directions, chip.links) * link)
            # The links to the next host and to the previous one start at different cards.
            outside = blocks * block / (directions * chip.between) if hosts > 1 else 0
            return max(_HOP, within, outside)

        value = (devices - 1) * max(0, hop(1) - product)
        gradient = (devices - 1) * max(0, hop(2) - 3 * product) + hop(1)  # captions and sums; then the sums return
        return Cost((value + gradient) if devices > 1 else 0, memory_of(name, of))

    # The gradient gathers again, and sums over all devices, which sends everything twice.
    gather = Cost((1 + 1 + 2) * gathered, memory_of("gather", of))
    return {"ring": ring("ring", 1), "two_way_ring": ring("two_way_ring", 2), "gather": gather}


def memory_of(exchange: str, of: Sizes) -> int:
    """Bytes of temporaries of the loss and its gradient on each device; the softmax takes up to half as much again."""
    block = _FLOAT * of.captions * of.width
    if exchange == "gather":
        return 2 * of.devices * block + 2 * _FLOAT * of.images * min(of.tile, of.devices * of.captions)
    arrays = 4 * block + _FLOAT * of.images * of.width  # captions and sums, here and arriving; gradients of the images
    return arrays + 2 * _FLOAT * of.images * min(of.tile, of.captions)


def best(known: Mapping[str, Cost], limit: int) -> str:
    """The exchange that waits least, the first of equals; "gather" only if the loss then takes no more than a twentieth
    of ``limit``, the memory of a device in bytes."""
    fits = [name for name in known if name != "gather" or known[name].memory <= SHARE * limit]
    return min(fits, key=lambda name: known[name].waiting)


def sizes(mesh: Mesh, batch: Batch, width: int, tile: int) -> Sizes:
    """Sizes of a batch's loss on each device of ``mesh``. ``batch``: arrays or shapes."""
    devices = batch_shards(mesh)
    return Sizes(
        devices, len(batch.image_labels.mult_I) // devices, len(batch.tokens) // devices, width, tile, hosts(mesh)
    )


def choose(mesh: Mesh, batch: Batch, width: int, tile: int) -> str:
    """The ``best`` of ``EXCHANGES``; "ring" where speed or memory of the devices is not known, and between TPU slices:
    ``costs`` knows only the links within one. All processes choose the same. ``batch``: arrays or shapes."""
    device = mesh.devices.flat[0]
    kind = device.device_kind
    known, limit = costs(kind, sizes(mesh, batch, width, tile)), memory.usable(kind)
    across = slices(mesh.devices.flat) if device.platform == "tpu" else 1
    if known is None or limit is None or across > 1:
        unknown = f"the speed of the network between {across} slices" if across > 1 else f"speed or memory of {kind}"
        if mesh.size > 1:  # one device exchanges nothing
            _LOG.info("config.objective.exchange is %r (auto): %s is not known", EXCHANGES[0], unknown)
        return EXCHANGES[0]
    number = EXCHANGES.index(best(known, limit))
    # One host may have a little less memory than another.
    chosen = EXCHANGES[int(multihost_utils.broadcast_one_to_all(np.int32(number)))]
    waiting = ", ".join(f"{name} {1e6 * cost.waiting:.0f}" for name, cost in known.items())
    _LOG.info("config.objective.exchange is %r (auto): microseconds of waiting in a step are %s", chosen, waiting)
    return chosen
