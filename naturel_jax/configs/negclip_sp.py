"""NegCLIP-SP (single pair) row: NegCLIP trained on one random complex positive and one random complex negative per
NatuRel image, with a blank image as the negative image."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip


def get_config(world: str = "") -> ConfigDict:
    config = negclip.get_config(world)
    config.name = "NegCLIP-SP"
    config.data.mixture.main = c.part(f"naturel/{world or 'full'}", "single_pair")
    return config
