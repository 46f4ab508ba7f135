"""The train state, the jitted step, and the loop."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from naturel_jax import objectives
from naturel_jax.batch import Batch
from naturel_jax.data.processor import Processor
from naturel_jax.models.two_tower import Model, Params, normalize
from naturel_jax.optim import by_path
from naturel_jax.sharding import BATCH_AXES, batch_sharding, shardings
from naturel_jax.tiles import Layout


class State(NamedTuple):
    """All that a step changes. ``ema`` is the moving average of the parameters, or None."""

    params: Params
    opt_state: Any
    ema: Params | None

    def arrays(self) -> dict[str, Any]:
        """The items of a checkpoint."""
        items = {"params": self.params, "optimizer": self.opt_state}
        return items if self.ema is None else items | {"ema": self.ema}

    @property
    def evaluated(self) -> Params:
        """The parameters that evaluation and export take."""
        return self.params if self.ema is None else self.ema


def make_state(params: Params, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool) -> State:
    """A state laid out over ``mesh`` from parameters that are."""
    place = shardings(jax.eval_shape(tx.init, params), mesh)
    opt_state = jax.jit(tx.init, out_shardings=place)(params)
    return State(params, opt_state, jax.tree.map(jnp.copy, params) if ema else None)


def abstract(state: State) -> dict[str, Any]:
    """Shapes, dtypes and shardings of ``state.arrays()``: what ``Checkpoints.restore`` takes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.arrays())


def make_objective(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[..., jax.Array]:
    """``objective(zimg_ID, zcap_UD, log_scale, bias, batch) -> loss`` from ``config.objective``.

    Raises ValueError for an unknown objective or counting.
    """
    if config.counting not in objectives.COUNTING:
        raise ValueError(
            f"config.objective.counting is {config.counting!r}; expected one of {sorted(objectives.COUNTING)}"
        )
    layout = Layout(mesh if config.ring else None, BATCH_AXES, config.tile)
    options = {"counting": config.counting, "hard_negative_weight": config.hard_negative_weight, "layout": layout}

    def sigmoid(zimg_ID, zcap_UD, log_scale, bias, batch):
        labels = batch.image_labels, batch.caption_labels
        return objectives.sigmoid_loss(zimg_ID, zcap_UD, jnp.exp(log_scale), bias, *labels, **options)

    def softmax(zimg_ID, zcap_UD, log_scale, bias, batch):
        del bias  # a constant added to all logits changes no softmax
        labels = batch.image_labels, batch.caption_labels
        smoothing = {"label_smoothing": config.label_smoothing}
        return objectives.softmax_loss(zimg_ID, zcap_UD, jnp.exp(log_scale), *labels, **smoothing, **options)

    table = {"sigmoid": sigmoid, "softmax": softmax}
    if config.name not in table:
        raise ValueError(f"config.objective.name is {config.name!r}; expected one of {sorted(table)}")
    return table[config.name]


class Loss:
    """Loss and gradient of a batch.

    With ``chunks`` above 1 the embeddings of the whole batch are computed first, without keeping activations, then the
    gradient of the loss to the embeddings, then chunk by chunk that to the parameters (GradCache, arXiv 2101.06983):
    the exact loss and gradient of the whole batch in the memory of one chunk.
    """

    def __init__(
        self,
        model: Model,
        objective: Callable[..., jax.Array],
        processor: Processor,
        *,
        frozen: Callable[[str], bool] = lambda path: False,
        chunks: int = 1,
    ):
        self._model, self._objective, self._processor = model, objective, processor
        self._frozen, self._chunks = frozen, chunks

    def _hold(self, params: Params) -> Params:
        """Cuts the gradient to frozen parameters, so that the compiler leaves out what only they would need."""
        frozen = by_path(params, self._frozen)
        return jax.tree.map(lambda p, held: jax.lax.stop_gradient(p) if held else p, params, frozen)

    def _image(self, params: Params, images_IHWC: jax.Array) -> jax.Array:
        pixels = normalize(images_IHWC, self._processor.mean, self._processor.std)
        return self._model.encode_image(self._hold(params), pixels)

    def _text(self, params: Params, tokens_UL: jax.Array) -> jax.Array:
        return self._model.encode_text(self._hold(params), tokens_UL)

    def from_embeddings(self, params: Params, zimg_ID: jax.Array, zcap_UD: jax.Array, batch: Batch) -> jax.Array:
        """The loss of given embeddings; of ``params`` only scale and bias are read."""
        params = self._hold(params)
        return self._objective(zimg_ID, zcap_UD, params["logit_scale"], params.get("logit_bias", jnp.float32(0)), batch)

    def __call__(self, params: Params, batch: Batch) -> jax.Array:
        """The loss, float32 scalar."""
        return self.from_embeddings(params, *self.embed(params, batch), batch)

    def embed(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Embeddings of the batch's images and captions, in ``chunks`` pieces."""
        encoders = (self._image, batch.images), (self._text, batch.tokens)
        if self._chunks == 1:
            return tuple(encode(params, rows) for encode, rows in encoders)
        return tuple(
            _join(jax.lax.map(functools.partial(encode, params), self._cut(rows))) for encode, rows in encoders
        )

    def value_and_grad(self, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        """The loss and its gradient to the parameters."""
        if self._chunks == 1:
            return jax.value_and_grad(self)(params, batch)
        zimg_ID, zcap_UD = self.embed(params, batch)
        loss = jax.value_and_grad(self.from_embeddings, argnums=(0, 1, 2))
        value, (gradient, dzimg_ID, dzcap_UD) = loss(params, zimg_ID, zcap_UD, batch)
        gradient = self._add_gradients(gradient, self._image, params, batch.images, dzimg_ID)
        return value, self._add_gradients(gradient, self._text, params, batch.tokens, dzcap_UD)

    def _add_gradients(self, gradient, encode, params, rows, upstream):
        def add(gradient, chunk):
            _, pull = jax.vjp(lambda params: encode(params, chunk[0]), params)
            return jax.tree.map(jnp.add, gradient, pull(chunk[1])[0]), None

        return jax.lax.scan(add, gradient, (self._cut(rows), self._cut(upstream)))[0]

    def _cut(self, rows: jax.Array) -> jax.Array:
        """[N, ...] -> [chunks, N / chunks, ...], every chunk taking its share of each device's block, so that no row
        moves."""
        return rows.reshape(-1, self._chunks, *rows.shape[1:]).swapaxes(0, 1)


def _join(chunks: jax.Array) -> jax.Array:
    """Inverse of ``Loss._cut``."""
    return chunks.swapaxes(0, 1).reshape(-1, *chunks.shape[2:])


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    state: State,
    mesh: Mesh,
    *,
    max_scale: float | None,
    ema: float = 0.0,
) -> Callable[[State, Batch, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """The jitted ``step(state, batch, number) -> (state, metrics)``; the state is donated.

    A step whose loss or gradient is not finite leaves the state as it was and says so in ``metrics['finite']``.
    ``max_scale`` keeps the logit scale within [1, max_scale], as CLIP does.
    """

    def step(state: State, batch: Batch, number: jax.Array):
        value, gradient = loss.value_and_grad(state.params, batch)
        norm = optax.global_norm(gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if max_scale is not None:
            params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, math.log(max_scale))
        average = state.ema
        if average is not None:
            average = jax.tree.map(lambda old, new: old + (1 - ema) * (new - old), average, params)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), State(params, opt_state, average), state)
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "lr": learning_rate(number),
            "logit_scale": jnp.exp(params["logit_scale"]),
            "captions": jnp.sum(batch.caption_labels.mult_U > 0),
            "finite": finite,
        }
        return state, metrics | ({"logit_bias": params["logit_bias"]} if "logit_bias" in params else {})

    place = jax.tree.map(lambda x: x.sharding, state)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step, in_shardings=(place, batch_sharding(mesh), whole), out_shardings=(place, whole), donate_argnums=0
    )


class NotFinite(RuntimeError):
    """The loss or its gradient was not a finite number."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps; an interval of 0 is never."""

    total: int
    log_every: int
    checkpoint_every: int
    eval_every: int


class Loop:
    """Steps from where the state stands to the end, with logs, checkpoints and evaluations on their schedule. The last
    evaluation is the caller's.

    ``save(step, state, wait)``, ``evaluate(step, state)`` and ``log(step, metrics)`` do what they are called;
    ``stop_asked(step)`` is whether this process was told to end. ``names(step)`` are the items of a batch, for the
    report of one that was not finite.
    """

    def __init__(self, step: Callable, schedule: Schedule, *, save, evaluate, log, stop_asked, names):
        self._step, self._schedule = step, schedule
        self._save, self._evaluate, self._log, self._stop_asked, self._names = save, evaluate, log, stop_asked, names
        # Simulated CPU devices deadlock when many steps with collectives are under way, so there each step is awaited.
        self._wait = jax.default_backend() == "cpu"

    def run(self, state: State, start: int, batches: Iterator[Batch]) -> tuple[State, bool]:
        """Returns the last state, and whether the run was finished (False: it was asked to stop, and has saved).

        Raises NotFinite, after which the newest checkpoint is the last good one.
        """
        schedule, pending = self._schedule, None
        for number, batch in zip(range(start, schedule.total), batches, strict=True):
            state, metrics = self._step(state, batch, np.int32(number))
            if self._wait:
                jax.block_until_ready(metrics)
            if pending:  # the metrics of the step before are read while this one runs
                self._read(*pending)
            pending, done = (number, metrics), number + 1
            stopping, last = self._stop_asked(done), done == schedule.total
            saving = stopping or last or _due(schedule.checkpoint_every, done)
            evaluating = not (stopping or last) and _due(schedule.eval_every, done)
            if saving or evaluating:
                self._read(*pending)
                pending = None
            if saving:
                self._save(done, state, stopping or last)
            if evaluating:
                self._evaluate(done, state)
            if stopping:
                return state, last
        return state, True

    def _read(self, number: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not values.pop("finite"):
            names = self._names(number)
            raise NotFinite(
                f"step {number}: loss {values['loss']}, gradient norm {values['grad_norm']}. "
                f"The state before it is kept. Its {len(names)} items: " + ", ".join(names)
            )
        self._log(number + 1, values)


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0
