"""The train state, the jitted step, and the loop.

Shape letters: U distinct captions.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
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
from naturel_jax.training import optim
from naturel_jax.training.loss import Loss
from tfds_naturel.common.errors import Stopped

Metrics = dict[str, jax.Array]


class State(NamedTuple):
    """Everything that a step updates. ``ema`` is the moving average of the parameters, or None. ``base``: the
    parameters that training started from, if the loss needs them or ``params`` are adapters; it is not saved."""

    params: Params
    opt_state: Any
    ema: Params | None
    base: Params | None = None

    def arrays(self) -> dict[str, Any]:
        """The items of a checkpoint."""
        items = {"params": self.params, "optimizer": self.opt_state}
        return items if self.ema is None else items | {"ema": self.ema}

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate and export; adapters are merged first (``Start.merged``)."""
        return self.params if self.ema is None else self.ema


def make_state(params: Params, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool, base: bool = False) -> State:
    """The initial state, sharded over ``mesh``, from parameters that already are. If they are
    ``jax.ShapeDtypeStruct``, so is the state."""

    def rest(params: Params) -> tuple[Any, Params | None, Params | None]:
        ema_params, base_params = (jax.tree.map(jnp.copy, params) if wanted else None for wanted in (ema, base))
        return tx.init(params), ema_params, base_params

    make = jax.jit(rest, out_shardings=shardings(jax.eval_shape(rest, params), mesh, params))
    abstract = isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct)
    return State(params, *(make.eval_shape(params) if abstract else make(params)))


def abstract(state: State) -> dict[str, Any]:
    """Shapes, dtypes and shardings of ``state.arrays()``: what ``Checkpoints.restore`` takes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.arrays())


def make_step(
    loss: Loss, tx: optax.GradientTransformation, state: State, mesh: Mesh, *, max_scale: float | None, ema: float = 0.0
) -> jax.stages.Wrapped:
    """The jitted ``step(state, batch) -> (state, metrics)``; the state is donated.

    A step whose loss or gradient is not finite leaves the state as it was, and ``metrics['finite']`` is False.
    ``max_scale`` keeps the logit scale within [1, max_scale], as CLIP does (arXiv 2103.00020, section 2.5).
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        (value, terms), gradient = loss.value_and_grad(state.params, batch, state.base)
        norm = optax.tree.norm(gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        if max_scale is not None:
            params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, math.log(max_scale))
        average = state.ema
        if average is not None:
            average = jax.tree.map(lambda old, new: old + (1 - ema) * (new - old), average, params)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), State(params, opt_state, average, state.base), state
        )
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "logit_scale": jnp.exp(params["logit_scale"]),
            "captions": jnp.sum(batch.caption_labels.mult_U > 0),
            "finite": finite,
        }
        metrics |= {f"grad_norm/{tower}": optax.tree.norm(gradient[tower]) for tower in ("image", "text")}
        metrics |= {f"term/{name}": value for name, value in terms.items()}
        return state, metrics | ({"logit_bias": params["logit_bias"]} if "logit_bias" in params else {})

    place = jax.tree.map(lambda x: x.sharding, state)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step, in_shardings=(place, batch_sharding(mesh)), out_shardings=(place, replicated), donate_argnums=0
    )


class NotFinite(RuntimeError):
    """The loss or its gradient was not a finite number in ``step``."""

    def __init__(self, step: int, loss: float, norm: float):
        super().__init__(f"step {step}: loss {loss}, gradient norm {norm}")
        self.step = step


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


def loop(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    state: State,
    batches: Iterator[Batch],
    *,
    start: int,
    schedule: Schedule,
    save: Callable[[int, State, bool], None],
    evaluate: Callable[[int, State, list[str]], None],
    log: Callable[[int, dict[str, float]], None],
    flops: Callable[[Batch], float],
    stop_requested: Callable[[], bool],
    prepare: Callable[[State, Batch], object] = lambda state, batch: None,
    profile: Callable[[int], Any] = lambda number: contextlib.nullcontext(),
) -> tuple[State, bool]:
    """Runs the steps from ``start`` to the end. Returns the last state, and whether the run is finished (False: it was
    asked to stop, and has saved). The evaluation after the last step is left to the caller.

    ``save(steps done, state, wait)``, ``evaluate(steps done, state, benchmarks)`` and ``log(steps done, metrics)`` are
    called when due; ``flops(batch)`` is added to the metrics; ``profile(number)`` is entered around each step.
    ``prepare`` is called before a step with a batch of new shapes, to compile it, and may raise Stopped before that is
    done. Raises NotFinite; the newest checkpoint is then the last good one.
    """
    # Simulated CPU devices deadlock when many steps with collectives are in flight, so there each step is read at once.
    read_at_once, pending = jax.default_backend() == "cpu", None

    def read(number: int, metrics: Metrics, flops: float) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not values.pop("finite"):  # seen one step late: the step in between started from the unchanged state
            raise NotFinite(number, values["loss"], values["grad_norm"])
        log(number + 1, values | {"flops": flops})

    prepared = set[tuple[tuple[int, ...], ...]]()
    for number, batch in zip(range(start, schedule.total), batches, strict=True):
        if (shapes := tuple(map(jnp.shape, jax.tree.leaves(batch)))) not in prepared:
            try:
                prepare(state, batch)
            except Stopped:
                if pending:
                    read(*pending)
                if number > start:
                    save(number, state, True)
                return state, False
            prepared.add(shapes)
        with profile(number), jax.transfer_guard("disallow"):  # an implicit transfer in a step is a bug
            state, metrics = step(state, batch)
        if pending:  # the previous step's metrics are read while this one runs
            read(*pending)
        pending, done = (number, metrics, flops(batch)), number + 1
        stopping, last = stop_requested(), done == schedule.total
        saving = stopping or last or _due(schedule.checkpoint_every, done)
        evaluating = due(schedule, done)
        if saving or evaluating or read_at_once:
            read(*pending)
            pending = None
        if saving:
            save(done, state, stopping or last)
        if stopping:
            return state, last
        if evaluating and not last:
            evaluate(done, state, evaluating)
    return state, True


def due(schedule: Schedule, done: int) -> list[str]:
    """The benchmarks to evaluate after ``done`` steps."""
    return [name for name, every in schedule.evaluate_every.items() if _due(every, done)]


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0
