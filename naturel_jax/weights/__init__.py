"""Reads and writes checkpoints exactly: ``load`` reads any source, ``export.save`` writes one."""

from naturel_jax.weights.peft import Adapter
from naturel_jax.weights.sources import (
    Foreign,
    Loaded,
    absolute,
    find,
    interpolate,
    is_computed,
    load,
    started_from,
    trained_on,
    unmerged,
)

__all__ = [
    "Adapter",
    "Foreign",
    "Loaded",
    "absolute",
    "find",
    "interpolate",
    "is_computed",
    "load",
    "started_from",
    "trained_on",
    "unmerged",
]
