"""Optimizers of ``optax.contrib`` that need more than their options."""

import re
from typing import Any

import jax
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from naturel_jax.config import Optim
from naturel_jax.devices.sharding import path_string

# Path of a matrix in a block -> its axes, counted from the end. Query, key and value are a matrix each; so are blocks.
_MATRICES = (
    (r".*/qkv/kernel", MuonDimensionNumbers((-4,), (-2, -1))),
    (r".*/out/kernel", MuonDimensionNumbers((-3, -2), (-1,))),
    (r".*/mlp/(up|down)/kernel", MuonDimensionNumbers((-2,), (-1,))),
)
_RMS = 0.2  # of an update, as large as AdamW's usually are (arXiv 2502.16982), so that their rates can be used


def muon(options: Optim) -> optax.GradientTransformation:
    """Muon (arXiv 2502.16982) for the matrices of the blocks, Nesterov's Adam for all else; ``b1`` is the momentum of
    both."""

    def axes(params: Any) -> Any:
        def of_leaf(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
            del leaf
            return next((axes for pattern, axes in _MATRICES if re.fullmatch(pattern, path_string(path))), None)

        return jax.tree_util.tree_map_with_path(of_leaf, params)

    tx = optax.contrib.muon(
        1.0,
        beta=options.b1,
        eps=options.eps,
        adam_b1=options.b1,
        adam_b2=options.b2,
        muon_weight_dimension_numbers=axes,
        consistent_rms=_RMS,
    )
    return optax.chain(tx, optax.scale(-1.0))


def prodigy(options: Optim) -> optax.GradientTransformation:
    """Prodigy (arXiv 2306.06101), which finds the rate itself; ``config.optim.lr`` and the schedule multiply it."""
    tx = optax.contrib.prodigy(1.0, betas=(options.b1, options.b2), eps=options.eps, safeguard_warmup=True)
    return optax.chain(tx, optax.scale(-1.0))
