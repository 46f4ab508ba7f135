"""NegCLIP-SP that also trains on bindings: which of two things has which attribute, or stands in which relation.

The bindings are a quarter of a batch; ``negclip_positions`` does the same with left, right, above and below.
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip_sp


def get_config(world: str = "") -> ConfigDict:
    config = negclip_sp.get_config(world)
    config.name = "NegCLIP-SP, bindings"
    config.data.mixture.main.weight = 0.75
    config.data.mixture.bindings = c.part(f"naturel/{world or 'full'}", "bindings", weight=0.25)
    config.eval.benchmarks = (*config.eval.benchmarks, "naturel_bindings")
    return config
