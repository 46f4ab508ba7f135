"""NegCLIP-SP that also trains on bindings: which of two things has which attribute, or stands in which relation."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip_sp


def get_config(world: str = "") -> ConfigDict:
    return with_kind("bindings", world)


def with_kind(kind: str, world: str) -> ConfigDict:
    """NegCLIP-SP with a quarter of a batch from the captions of a kind, ``bindings`` or ``positions``."""
    config = negclip_sp.get_config(world)
    config.name = f"NegCLIP-SP, {kind}"
    config.data.mixture.main.weight = 0.75
    config.data.mixture[kind] = c.part(f"naturel/{world or 'full'}", kind, weight=0.25)
    config.eval.benchmarks = (*config.eval.benchmarks, f"naturel_{kind}")
    return config
