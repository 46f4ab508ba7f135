"""The train state, the jitted step, and when things happen in a run.

Shape letters: U distinct captions.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from naturel_jax import config
from naturel_jax.config import durations
from naturel_jax.devices.sharding import batch_sharding, shardings
from naturel_jax.losses.batch import Batch
from naturel_jax.models.two_tower import Params
from naturel_jax.training import optim, outliers
from naturel_jax.training.loss import Loss

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """Everything that a step updates. ``ema`` is the average of the parameters, or None. ``base``: the parameters that
    training started from, if the loss needs them or ``params`` are adapters; it stays as it is, and is not saved.
    ``norms``: the gradient norms so far, if steps are left out for theirs."""

    params: Params
    opt_state: Any
    ema: Params | None
    base: Params | None = None
    norms: outliers.Norms | None = None

    def arrays(self) -> dict[str, Any]:
        """The items of a checkpoint."""
        items = {"params": self.params, "optimizer": self.opt_state, "ema": self.ema, "norms": self.norms}
        return {name: item for name, item in items.items() if item is not None}

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate and export; adapters are merged first (``Start.merged``)."""
        return self.params if self.ema is None else self.ema


def make_state(
    params: Params, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool, base: bool = False, norms: bool = False
) -> State:
    """The initial state of parameters that are sharded already, or its shapes if they are shapes. They are not copied:
    the first step donates them."""

    def rest(params: Params) -> tuple[Any, Params | None, Params | None, outliers.Norms | None]:
        ema_params, base_params = (jax.tree.map(jnp.copy, params) if wanted else None for wanted in (ema, base))
        return tx.init(params), ema_params, base_params, outliers.none_yet() if norms else None

    make = jax.jit(rest, out_shardings=shardings(jax.eval_shape(rest, params), mesh, params))
    abstract = isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct)
    return State(params, *(make.eval_shape(params) if abstract else make(params)))


def abstract(state: State) -> dict[str, Any]:
    """Shapes, dtypes and shardings of ``state.arrays()``: what ``Checkpoints.restore`` takes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.arrays())


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    state: State,
    mesh: Mesh,
    *,
    max_scale: float | None,
    options: config.Optim,
) -> jax.stages.Wrapped:
    """The jitted ``step(state, batch) -> (state, metrics)``; the state is donated.

    A step whose loss or gradient is not finite leaves the state as it was, and ``metrics['finite']`` is False; one that
    ``options.skip_above`` leaves out changes ``norms`` and the count of the learning rate's schedule only. Of
    ``state``, only the shardings are used. The metrics are scalars: ``loss`` and ``grad_norm`` (also by tower, before
    clipping) of the parameters before the step, ``logit_scale`` (the scale, not its logarithm) and ``logit_bias`` after
    it, ``captions`` (distinct, not padding), ``term/NAME`` without its weight; with ``options.skip_above`` also
    ``taken``, ``skipped`` (steps so far) and ``grad_norm/usual``. ``max_scale`` keeps the logit scale within
    [1, max_scale], as CLIP does (arXiv 2103.00020, section 2.5).
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        (value, terms), gradient = loss.value_and_grad(
            state.params, batch, state.ema if loss.of_average else state.base
        )
        norm = optax.tree.norm(gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        if max_scale is not None:
            params, opt_state = optim.clamped(options, params, opt_state, max_scale)
        average = state.ema
        if average is not None:
            average = optim.averaged(options, average, params, opt_state)
        taken = finite = jnp.isfinite(value) & jnp.isfinite(norm)
        norms = state.norms
        if norms is not None:
            norms, usual = outliers.judge(norms, norm, finite, options.skip_above)
            taken &= usual
        new = State(params, opt_state, average, state.base, norms)
        state = outliers.state_after(taken, finite, new, state)._replace(norms=norms)
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "logit_scale": jnp.exp(state.params["logit_scale"]),
            "captions": jnp.sum(batch.caption_labels.mult_U > 0),
            "finite": finite,
        }
        metrics |= {f"grad_norm/{tower}": optax.tree.norm(gradient[tower]) for tower in ("image", "text")}
        metrics |= {f"term/{name}": value for name, value in terms.items()}
        if norms is not None:
            metrics |= {"taken": taken, "skipped": norms.skipped, "grad_norm/usual": norms.mean}
        return state, metrics | ({"logit_bias": state.params["logit_bias"]} if "logit_bias" in params else {})

    place = jax.tree.map(lambda x: x.sharding, state)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step, in_shardings=(place, batch_sharding(mesh)), out_shardings=(place, replicated), donate_argnums=0
    )


class Schedule(NamedTuple):
    """When things happen, in steps; an interval of 0 means never. ``evaluate_every``: benchmark -> interval;
    ``profile``: number of steps to trace."""

    total: int
    log_every: int
    checkpoint_every: int
    evaluate_every: Mapping[str, int]
    profile: int


def make_schedule(options: config.Config, examples: int) -> tuple[Schedule, optim.LearningRate]:
    """The schedule of events and of the learning rate, for a run with ``examples`` images per epoch."""
    steps = functools.partial(durations.steps, batch_size=options.data.batch_size, examples=examples)
    total = steps(options.duration)
    every = functools.partial(steps, total=total)
    schedule = Schedule(
        total,
        log_every=max(every(options.log_every), 1),
        checkpoint_every=every(options.checkpoint.every),
        evaluate_every={name: every(interval) for name, interval in options.eval.during.items()},
        profile=every(options.profile),
    )
    return schedule, optim.make_learning_rate(options.optim, total, every(options.optim.warmup))
