"""Calibrates the logit bias on the first batch: that of a CLIP checkpoint that switches to the sigmoid loss, or any
(``config.objective.calibrate_bias``).

Shape letters: I images, U distinct captions, D embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from naturel_jax.devices.sharding import path_string
from naturel_jax.losses.batch import Batch
from naturel_jax.models.two_tower import Params
from naturel_jax.training.loss import Loss
from naturel_jax.training.train import State

_COPIES = {"z", "params0"}  # of the parameters: a schedule-free optimizer's, and those that Prodigy measures from
_LIMIT = 200.0  # the bias is searched for between -_LIMIT and _LIMIT


def calibrate_bias(loss_of_bias: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The bias that minimizes ``loss_of_bias`` (convex in the bias, as the sigmoid loss is), to within 1e-4, by
    bisection on its derivative."""
    slope = jax.grad(loss_of_bias)

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (ends[0] + ends[1]) / 2
        rising = slope(middle) > 0
        return jnp.where(rising, ends[0], middle), jnp.where(rising, middle, ends[1])

    ends = jax.lax.fori_loop(0, 22, halve, (jnp.float32(-_LIMIT), jnp.float32(_LIMIT)))
    return (ends[0] + ends[1]) / 2


def calibrated(state: State, loss: Loss, batch: Batch) -> State:
    """``state`` with its bias set to the value that minimizes the loss on ``batch``, in all copies."""

    @jax.jit
    def best(params: Params, base: Params | None, batch: Batch) -> jax.Array:
        zimg_ID, zcap_UD = loss.embed(loss.merged(params, base), batch)
        return calibrate_bias(lambda bias: loss.from_embeddings(params | {"logit_bias": bias}, zimg_ID, zcap_UD, batch))

    bias = jax.device_put(best(state.params, state.base, batch), state.params["logit_bias"].sharding)

    def replaced(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        names = path_string(path).split("/")
        is_copy = names[0] in ("params", "ema") or not _COPIES.isdisjoint(names)
        return jnp.copy(bias) if is_copy and names[-1] == "logit_bias" else x

    return jax.tree_util.tree_map_with_path(replaced, state)
