"""The memory of a device, what a training step needs of it, and the recomputation (``config.compute.remat``) that makes
the step fit.

The estimate traces the towers and compiles nothing. docs/plan.md compares it with compiled steps.

Shape letters: I images, H, W pixels, C channels, P patches that are kept, V values of a patch, U captions, L
tokens, D embedding.
"""

import dataclasses
import functools
import logging
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from naturel_jax.devices import hardware
from naturel_jax.devices.hardware import GIB
from naturel_jax.devices.sharding import batch_shards
from naturel_jax.losses.batch import Batch
from naturel_jax.models import adapters
from naturel_jax.models.naflex import Patches
from naturel_jax.models.transformer import REMAT_POLICIES
from naturel_jax.models.two_tower import Images, Model, Params
from naturel_jax.training.train import State
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

# JAX takes a share of a GPU's memory at the start, and a program can use no more: 0.75, or the value of the first of
# these variables that is set (docs.jax.dev/en/latest/gpu_memory_allocation.html). The rest is for CUDA, NCCL and other
# programs.
_SHARE, _SHARE_VARIABLES = 0.75, ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")

# The policies that ``auto`` and ``naturel-plan --search`` try, those that recompute least first.
AUTO = ("none", "dots", "full")

# Safety factor on the estimated temporaries, by policy: the compiler pads arrays to the tiles of the
# matrix unit and keeps buffers that the estimate does not count, more of them if nothing is recomputed (docs/plan.md).
MARGINS, MARGIN = {"none": 1.75}, 1.25


def usable(kind: str) -> int | None:
    """Bytes of memory that a program may use on a device of this ``jax.Device.device_kind``; None if not known, as for
    CPUs, which share the host's. Raises what ``gpu_share`` raises."""
    local = [device for device in jax.local_devices() if device.device_kind == kind]
    stats = local[0].memory_stats() if local else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    known = hardware.find(kind)
    if known is None or known.memory is None:
        return None
    return int(gpu_share() * known.memory) if known.is_gpu else known.memory


def gpu_share() -> float:
    """The share of a GPU's memory that JAX takes at the start. Raises UserError for a variable that is not a number."""
    for name in _SHARE_VARIABLES:
        if value := os.environ.get(name):
            try:
                return float(value)
            except ValueError as error:
                expected = "the share of a GPU's memory that JAX takes, such as .9"
                raise UserError(f"{name} is {value!r}; expected {expected}") from error
    return _SHARE


def per_device(tree: Any) -> int:
    """Bytes that each device holds of ``tree``: arrays, or ``jax.ShapeDtypeStruct`` with sharding."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def with_remat(model: Model, policy: str) -> Model:
    """The model with another of ``REMAT_POLICIES``."""
    return dataclasses.replace(model, compute=dataclasses.replace(model.compute, remat=policy))


def activations(model: Model, images: int, captions: int, tokens: int, patches: int | None = None) -> int:
    """Bytes that the towers keep from the forward to the backward pass for ``images`` of ``patches`` (None: all) and
    ``captions`` of ``tokens`` positions: what JAX's differentiation saves under the model's remat policy, plus, if that
    recomputes or blocks are frozen, what it would save of one block."""
    rows, mesh = (images, captions, tokens, patches), model.compute.mesh
    one_device = mesh and Mesh(mesh.devices.flat[:1].reshape((1,) * mesh.devices.ndim), mesh.axis_names)
    compute = dataclasses.replace(model.compute, rows=None, mesh=one_device)
    model = dataclasses.replace(model, compute=compute)
    saved = _saved(model, *rows)
    if REMAT_POLICIES[compute.remat] is None and not compute.frozen_image and not compute.frozen_text:
        return saved
    depth = min(tower.transformer.depth for tower in (model.config.image, model.config.text))
    plain = dataclasses.replace(compute, remat="none", frozen_image=0, frozen_text=0)
    return saved + _saved(dataclasses.replace(model, compute=plain), *rows) // depth


@functools.cache  # a trace takes seconds, and each policy that recomputes needs the one of "none"
def _saved(model: Model, images: int, captions: int, tokens: int, patches: int | None) -> int:
    """Bytes of the residuals that grow with the batch; the others are parameters."""
    image, params = model.config.image, model.shapes()

    def pullback(params: Params, pixels: Images, patches_IP: jax.Array | None, tokens_UL: jax.Array) -> Any:
        def embed(params: Params) -> tuple[jax.Array, jax.Array | None]:
            zcap_UD = model.encode_text(params, tokens_UL) if captions else None
            return model.encode_image(params, pixels, patches_IP), zcap_UD

        return jax.vjp(embed, params)[1]

    def residuals(copies: int) -> int:
        rows = copies * images
        pixels: Any = jax.ShapeDtypeStruct((rows, image.size, image.size, 3), jnp.float32)
        tokens_UL = jax.ShapeDtypeStruct((copies * captions, tokens), jnp.int32)
        patches_IP = None if patches is None else jax.ShapeDtypeStruct((rows, patches), jnp.int32)
        if image.naflex:
            values_IPV = jax.ShapeDtypeStruct((rows, patches or image.grid**2, 3 * image.patch**2), jnp.float32)
            pixels, patches_IP = Patches(values_IPV, jax.ShapeDtypeStruct((rows, 2), jnp.int32)), None
        leaves = jax.tree.leaves(jax.eval_shape(pullback, params, pixels, patches_IP, tokens_UL))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return residuals(2) - residuals(1)


class Estimate(NamedTuple):
    """Estimated bytes that a step needs on each device besides its arguments."""

    gradients: int
    activations: int


def estimate(
    model: Model, params: Params, batch: Batch, mesh: Mesh, chunks: int, base: Params | None = None
) -> Estimate:
    """What a step needs besides its arguments; the loss (``exchange.memory_of``) is not counted.

    ``params`` and ``batch`` are arrays or ``jax.ShapeDtypeStruct`` with sharding, ``chunks`` is
    ``config.objective.chunks``. If ``params`` are adapters of ``base``, the kernels that they change are there once
    more, merged, and have a gradient themselves. The tensor axis of the mesh is ignored, so with one, the estimate is
    too high.
    """
    rows = batch_shards(mesh) * chunks
    captions, tokens = batch.captions_to_embed
    gradients = per_device(params) * (1 if chunks == 1 else 2)  # the sum over chunks, and those of one chunk
    gradients += 2 * per_device(adapters.changed(base or {}, params))
    images, patches = batch.images_to_embed // rows, batch.patches_to_embed
    return Estimate(gradients, activations(model, images, captions // rows, tokens, patches))


def choose_remat(model: Model, state: State, batch: Batch, mesh: Mesh, chunks: int) -> str:
    """The first policy of ``AUTO`` with which a step fits into the memory of the devices; the last if none fits. "none"
    on a CPU, or if the memory is not known. Arguments: see ``estimate``. All processes choose the same."""
    kind = mesh.devices.flat[0].device_kind
    if (limit := usable(kind)) is None:
        return "none"
    chosen, needed = len(AUTO) - 1, 0
    for number, policy in enumerate(AUTO):
        estimated = sum(estimate(with_remat(model, policy), state.params, batch, mesh, chunks, state.base))
        needed = per_device((state, batch)) + math.ceil(estimated * MARGINS.get(policy, MARGIN))
        if needed <= limit:
            chosen = number
            break
    # One host may have a little less memory than another.
    chosen = int(multihost_utils.broadcast_one_to_all(np.int32(chosen)))
    sizes = f"at most about {needed / GIB:.1f} of {limit / GIB:.1f} GiB"
    _LOG.info("config.compute.remat is %r (auto): a step needs %s of each %s", AUTO[chosen], sizes, kind)
    return AUTO[chosen]
