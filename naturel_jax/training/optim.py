"""The optimizer from ``config.optim``: schedule, decay mask, learning-rate multipliers, freezing, averages."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from naturel_jax import config
from naturel_jax.devices.sharding import path_string
from naturel_jax.models.two_tower import ABOVE_BLOCKS, Params, TwoTowerConfig
from naturel_jax.training import contrib
from tfds_naturel.common.errors import UserError

# Parameters whose path ends in one of these are decayed. Norms, biases, class token, logit scale and bias are not, as
# in every published recipe.
DECAYED = r".*(kernel|embed|position|probe|lora_[ab])"

_BLOCKS = re.compile(r"(.*/transformer/blocks)/(.*)")  # parameters of all blocks of a tower, stacked

LearningRate = Callable[[Any], jax.Array]  # step, counted from 0 -> rate

# config.optim.schedule -> fraction of the peak rate as a function of progress after the warmup, 0 to 1.
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
    # arXiv 1804.04235, without parameter-scaled updates: the schedule sets the rate. As where blocks
    # are separate parameters, the RMS of the update is limited for each block; query, key and value are one here.
    "adafactor": lambda options: optax.chain(optax.scale_by_factored_rms(), optax.stateless(_clip_rms)),
    # arXiv 2405.15682: its average takes the place of the first moment; see make_optimizer.
    "schedule_free_adamw": lambda options: optax.scale_by_adam(0.0, options.b2, options.eps),
    "muon": contrib.muon,
    "prodigy": contrib.prodigy,
}
AVERAGING = ("schedule_free_adamw",)  # optimizers that have an average of their own, which is evaluated


def _clip_rms(updates: Params, _: Any) -> Params:
    """Updates whose root mean square is at most 1, in each block of stacked ones."""

    def clipped(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        first = 1 if _BLOCKS.fullmatch(path_string(path)) else 0
        rms = jnp.sqrt(jnp.mean(update**2, axis=range(first, update.ndim), keepdims=True))
        return update / jnp.maximum(1.0, rms)

    return jax.tree_util.tree_map_with_path(clipped, updates)


def make_learning_rate(options: config.Optim, total_steps: int, warmup_steps: int) -> LearningRate:
    """Linear warmup ``lr * (step + 1) / warmup_steps`` (OpenCLIP's), then ``SCHEDULES[options.schedule]``.

    Raises UserError for a warmup longer than the run.
    """
    if warmup_steps > total_steps > 0:
        raise UserError(f"config.optim.warmup is {warmup_steps} steps; the run has {total_steps}: shorten it")
    shape = SCHEDULES[options.schedule]

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        fraction = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1)
        return options.lr * jnp.where(step < warmup_steps, (step + 1) / max(warmup_steps, 1), shape(fraction))

    return learning_rate


def multipliers(options: config.Optim, params: Any) -> Any:
    """The learning-rate multiplier of every parameter: the factor of the first pattern that matches its path, else 1.

    In a tower's blocks, a pattern may also match the path of one of them, ``image/transformer/blocks/3/mlp/up/kernel``.
    The first pattern of the list that matches either counts. ``options.layer_decay`` multiplies it once for each block
    from a parameter to what follows the blocks, as in BEiT (arXiv 2106.08254) and timm. If blocks then differ, the
    multiplier is an array, float64 [depth]. Raises UserError for a pattern that matches no parameter.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [path_string(path) for path, _ in leaves]
    known = {name for path, (_, leaf) in zip(paths, leaves, strict=True) for name in (path, *_block_paths(path, leaf))}
    for pattern, _ in options.lr_multipliers:
        if not any(re.fullmatch(pattern, path) for path in known):
            raise UserError(
                f"config.optim.lr_multipliers: {pattern!r} matches no parameter; "
                f"paths look like {paths[0]!r}, {paths[-1]!r}"
            )

    def first_match(*names: str) -> float:
        rules = options.lr_multipliers
        return next((factor for pattern, factor in rules if any(re.fullmatch(pattern, name) for name in names)), 1.0)

    shapes = {path: leaf.shape for path, (_, leaf) in zip(paths, leaves, strict=True)}
    depths = {path.split("/")[0]: shape[0] for path, shape in shapes.items() if _BLOCKS.fullmatch(path)}

    def decayed(name: str, block: int) -> float:
        tower, *part = name.split("/")
        above = tower not in depths or part[0] in ABOVE_BLOCKS
        return 1.0 if above else options.layer_decay ** (depths[tower] - block)

    def leaf_factor(path: tuple[Any, ...], leaf: Any) -> float | np.ndarray:
        name = path_string(path)
        factors = [first_match(name, block) * decayed(name, n) for n, block in enumerate(_block_paths(name, leaf))]
        factors = factors or [first_match(name) * decayed(name, -1)]
        return factors[0] if len(set(factors)) == 1 else np.array(factors)

    return jax.tree_util.tree_map_with_path(leaf_factor, params)


def _block_paths(path: str, leaf: Any) -> Iterator[str]:
    """The path of each block's part of a parameter of stacked blocks; nothing for other parameters."""
    if match := _BLOCKS.fullmatch(path):
        yield from (f"{match[1]}/{block}/{match[2]}" for block in range(leaf.shape[0]))


def by_block(factor: Any, leaf: jax.Array) -> jax.Array:
    """An array of ``multipliers`` in a shape that ``leaf`` can be multiplied with."""
    return jnp.asarray(factor, leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))


def frozen_blocks(options: config.Optim, sizes: TwoTowerConfig, params: Params) -> dict[str, int]:
    """How many of the lowest blocks of each tower, "image" and "text", are frozen along with everything below them;
    only the shapes of ``params`` are used."""
    factors = multipliers(options, params)
    frozen = {"image": 0, "text": 0}
    for tower in frozen:
        parts, depth = factors[tower], getattr(sizes, tower).transformer.depth
        below = [part for name, part in parts.items() if name not in ("transformer", *ABOVE_BLOCKS)]
        if any(np.any(factor) for factor in jax.tree.leaves(below)):
            continue
        blocks = jax.tree.leaves(parts.get("transformer", {}))  # an adapter may leave out a tower
        is_trained = np.any([np.zeros(depth, bool), *(np.zeros(depth) != factor for factor in blocks)], axis=0)
        frozen[tower] = int(np.argmax([*is_trained, True]))
    return frozen


def make_optimizer(options: config.Optim, params: Any, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """``OPTIMIZERS[options.name]`` with clipping by global norm and decoupled weight decay.

    A multiplier scales a parameter's whole update, decay included. Frozen parameters have no moments, unless other
    blocks of the same stack are trained. A schedule-free optimizer wraps all of this.
    """
    factors = multipliers(options, params)

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: bool(re.fullmatch(DECAYED, path_string(path))), params)

    trained = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        OPTIMIZERS[options.name](options),
        optax.add_decayed_weights(options.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(learning_rate),
    )

    def scaled(update: jax.Array, factor: float | np.ndarray) -> jax.Array:
        return update * (by_block(factor, update) if isinstance(factor, np.ndarray) else factor)

    labels = jax.tree.map(lambda factor: "trained" if np.any(factor) else "frozen", factors)
    tx = optax.chain(
        optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels),
        optax.stateless(lambda updates, _: jax.tree.map(scaled, updates, factors)),
    )
    if options.name not in AVERAGING:
        return tx
    # What is frozen keeps its bits: the average is computed from two copies of a parameter, and rounds.
    moves = jax.tree.map(lambda factor: np.where(factor, 1.0, 0.0) if np.ndim(factor) else float(bool(factor)), factors)
    return optax.chain(
        optax.contrib.schedule_free(tx, learning_rate, options.b1),
        optax.stateless(lambda updates, _: jax.tree.map(scaled, updates, moves)),
    )


def averaged(options: config.Optim, average: Params, params: Params, opt_state: Any) -> Params:
    """The average to evaluate after a step to ``params``: the optimizer's own, if it has one, else the moving one."""
    if options.name in AVERAGING:
        own = optax.contrib.schedule_free_eval_params(opt_state[0], params)
        return jax.tree.map(lambda x, y, z: jnp.where(y == z, y, x), own, params, opt_state[0].z)  # frozen: no rounding
    return jax.tree.map(lambda old, new: old + (1 - options.ema) * (new - old), average, params)


def clamped(options: config.Optim, params: Params, opt_state: Any, max_scale: float) -> tuple[Params, Any]:
    """Both with the logit scale within [1, ``max_scale``], in each copy that the optimizer has of it."""

    def within(params: Params) -> Params:
        return params | {"logit_scale": jnp.clip(params["logit_scale"], 0.0, math.log(max_scale))}

    if options.name in AVERAGING:  # else the average, which is computed from z, leaves the bounds
        opt_state = (opt_state[0]._replace(z=within(opt_state[0].z)), *opt_state[1:])
    return within(params), opt_state
