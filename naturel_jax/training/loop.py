"""The loop over the steps of a run."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from naturel_jax.losses.batch import Batch
from naturel_jax.training.train import Metrics, Schedule, State
from tfds_naturel.common.errors import Stopped


class NotFinite(RuntimeError):
    """The loss or its gradient was not a finite number in ``step``, counted from 0; the message counts from 1, as the
    log does."""

    def __init__(self, step: int, loss: float, norm: float):
        super().__init__(f"step {step + 1}: loss {loss}, gradient norm {norm}")
        self.step = step


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
    called when due; ``flops(batch)``, of the whole batch, is added to the metrics; ``profile(number)`` is entered
    around each step. ``prepare`` is called before a step with a batch of new shapes, to compile it, and may raise
    Stopped while it does. Raises NotFinite; the newest checkpoint is then the last good one.
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
