"""Steps whose gradient is far larger than usual, which ``config.optim.skip_above`` leaves out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_FIRST = 10  # steps that are always taken: their norms say what is usual
_WINDOW = 100  # steps over which the running mean forgets


class Norms(NamedTuple):
    """What a run remembers of its gradient norms: their running mean, the steps it is of, how many were left out."""

    mean: jax.Array
    steps: jax.Array
    skipped: jax.Array


def none_yet() -> Norms:
    """The norms of a run that begins."""
    return Norms(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def judge(norms: Norms, norm: jax.Array, finite: jax.Array, skip_above: float) -> tuple[Norms, jax.Array]:
    """The norms with one more, if it is ``finite``, and whether it is usual (bool): at most ``skip_above`` times the
    mean of those before it. Others count as that limit, so that a run whose norms have grown for good goes on."""
    limit, steps = skip_above * norms.mean, norms.steps + 1
    usual = (norm <= limit) | (norms.steps < _FIRST) | (limit == 0)  # 0: so were all before
    mean = norms.mean + (jnp.where(usual, norm, limit) - norms.mean) / jnp.minimum(steps, _WINDOW)
    seen = Norms(mean, steps, norms.skipped + ~usual)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), seen, norms), usual


def state_after(taken: jax.Array, finite: jax.Array, new: Any, old: Any) -> Any:
    """The state ``new`` if the step is ``taken``, else ``old``. The learning rate's schedule goes on if it is
    ``finite``, so that a step that is left out does not delay the run's end."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def chosen(new: Any, old: Any) -> Any:
        condition = finite if is_schedule(new) else taken
        return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)

    return jax.tree.map(chosen, new, old, is_leaf=is_schedule)
