"""The optimizer from its config: schedule, decay mask, learning rates by part, freezing."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from naturel_jax.sharding import path_string

# Norms, biases, class token, logit scale and bias are not decayed, as every published recipe has it.
DECAYED = r".*(kernel|embed|position|probe)"


SHAPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda fraction: 0.5 * (1 + jnp.cos(jnp.pi * fraction)),
    "linear": lambda fraction: 1 - fraction,
    "constant": jnp.ones_like,
}


def schedule(config: ml_collections.ConfigDict, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warmup ``lr * (step + 1) / warmup_steps`` (OpenCLIP's), then ``config.schedule``, a key of ``SHAPES``,
    over the rest.

    Raises ValueError for an unknown shape or a warmup longer than the run.
    """
    if config.schedule not in SHAPES:
        raise ValueError(f"config.optim.schedule is {config.schedule!r}; expected one of {sorted(SHAPES)}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"config.optim.warmup is {warmup_steps} steps; the run has {total_steps}: shorten it")

    def learning_rate(step):
        step = jnp.asarray(step, jnp.float32)
        fraction = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1)
        after = SHAPES[config.schedule](fraction)
        return config.lr * jnp.where(step < warmup_steps, (step + 1) / max(warmup_steps, 1), after)

    return learning_rate


def by_path(tree: Any, function: Callable[[str], Any]) -> Any:
    """A tree of ``function(path)``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_string(path)), tree)


def multipliers(config: ml_collections.ConfigDict, params: Any) -> Any:
    """The learning-rate multiplier of every parameter: first match of ``config.lr_multipliers`` (pattern, factor),
    else 1; 0 freezes.

    Raises ValueError for a pattern that matches no parameter.
    """
    rules = [(pattern, float(factor)) for pattern, factor in config.lr_multipliers]
    paths = jax.tree.leaves(by_path(params, lambda path: path))
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise ValueError(
                f"config.optim.lr_multipliers: {pattern!r} matches no parameter; "
                f"paths look like {paths[0]!r}, {paths[-1]!r}"
            )
    return by_path(params, lambda path: next((factor for pattern, factor in rules if re.fullmatch(pattern, path)), 1.0))


def frozen(config: ml_collections.ConfigDict, params: Any) -> Callable[[str], bool]:
    """Whether the parameter of a path is frozen."""
    factors = {
        path_string(path): factor for path, factor in jax.tree_util.tree_leaves_with_path(multipliers(config, params))
    }
    return lambda path: factors[path] == 0


def make(config: ml_collections.ConfigDict, params: Any, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW with clipping by global norm (``clip_norm`` 0: none) and decoupled weight decay. A multiplier scales a
    parameter's whole update, decay included; frozen parameters have no moments."""
    factors = multipliers(config, params)
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(
            config.weight_decay, mask=lambda p: by_path(p, lambda path: bool(re.fullmatch(DECAYED, path)))
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
    labels = jax.tree.map(lambda factor: "trained" if factor else "frozen", factors)
    return optax.chain(
        optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)),
    )
