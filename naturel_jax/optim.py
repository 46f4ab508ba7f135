"""The optimizer from ``config.optim``: schedule, decay mask, learning-rate multipliers, freezing."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from naturel_jax import config
from naturel_jax.sharding import path_string
from tfds_naturel.errors import UserError

# Norms, biases, class token, logit scale and bias are not decayed, as in every published recipe.
DECAYED = r".*(kernel|embed|position|probe)"

LearningRate = Callable[[Any], jax.Array]  # of a step, counted from 0

# config.optim.schedule -> fraction of the peak rate, given the fraction of the steps after the warmup that are done.
SCHEDULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda fraction: 0.5 * (1 + jnp.cos(jnp.pi * fraction)),
    "linear": lambda fraction: 1 - fraction,
    "constant": jnp.ones_like,
}

# config.optim.name -> how a gradient becomes a direction; weight decay and learning rate are applied after it.
OPTIMIZERS: dict[str, Callable[[config.Optim], optax.GradientTransformation]] = {
    "adamw": lambda options: optax.scale_by_adam(options.b1, options.b2, options.eps),
    "lion": lambda options: optax.scale_by_lion(options.b1, options.b2),
    "sgd": lambda options: optax.trace(options.b1) if options.b1 else optax.identity(),
    # arXiv 1804.04235, without scaling by a parameter's size: the schedule sets the rate.
    "adafactor": lambda options: optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
}


def make_learning_rate(options: config.Optim, total_steps: int, warmup_steps: int) -> LearningRate:
    """Linear warmup ``lr * (step + 1) / warmup_steps`` (OpenCLIP's), then ``SCHEDULES[options.schedule]``.

    Raises UserError for a warmup longer than the run.
    """
    if warmup_steps > total_steps:
        raise UserError(f"config.optim.warmup is {warmup_steps} steps; the run has {total_steps}: shorten it")
    shape = SCHEDULES[options.schedule]

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        fraction = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1)
        return options.lr * jnp.where(step < warmup_steps, (step + 1) / max(warmup_steps, 1), shape(fraction))

    return learning_rate


def map_paths(function: Callable[[str], Any], tree: Any) -> Any:
    """A tree of ``function(path)``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_string(path)), tree)


def multipliers(options: config.Optim, params: Any) -> Any:
    """The learning-rate multiplier of every parameter: that of the first pattern that matches its path, else 1.

    Raises UserError for a pattern that matches no parameter.
    """
    paths = jax.tree.leaves(map_paths(str, params))
    for pattern, _ in options.lr_multipliers:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise UserError(
                f"config.optim.lr_multipliers: {pattern!r} matches no parameter; "
                f"paths look like {paths[0]!r}, {paths[-1]!r}"
            )

    def first_match(path: str) -> float:
        return next((factor for pattern, factor in options.lr_multipliers if re.fullmatch(pattern, path)), 1.0)

    return map_paths(first_match, params)


def make_optimizer(options: config.Optim, params: Any, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """``OPTIMIZERS[options.name]`` with clipping by global norm and decoupled weight decay.

    A multiplier scales a parameter's whole update, decay included; frozen parameters have no moments.
    """
    factors = multipliers(options, params)

    def decayed(params: Any) -> Any:
        return map_paths(lambda path: bool(re.fullmatch(DECAYED, path)), params)

    trained = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        OPTIMIZERS[options.name](options),
        optax.add_decayed_weights(options.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(learning_rate),
    )
    labels = jax.tree.map(lambda factor: "trained" if factor else "frozen", factors)
    return optax.chain(
        optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)),
    )
