"""Reads and writes checkpoints exactly: ``load`` reads any source, ``export.save`` writes one."""

from naturel_jax.weights.sources import Foreign, Loaded, find, interpolate, load, trained_on

__all__ = ["Foreign", "Loaded", "find", "interpolate", "load", "trained_on"]
