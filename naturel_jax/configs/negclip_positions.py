"""NegCLIP-SP that also trains on positions: left of, right of, above and below. They are a quarter of a batch."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip_sp


def get_config(world: str = "") -> ConfigDict:
    config = negclip_sp.get_config(world)
    config.name = "NegCLIP-SP, positions"
    config.data.mixture.main.weight = 0.75
    config.data.mixture.positions = c.part(f"naturel/{world or 'full'}", "positions", weight=0.25)
    config.eval.benchmarks = (*config.eval.benchmarks, "naturel_positions")
    return config
