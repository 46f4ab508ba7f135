"""NegCLIP-SP (single pair) row: NegCLIP trained on one random complex positive and one random complex negative per
NatuRel image, with a blank image as the negative image."""

from configs import negclip
from naturel_jax import config as c


def get_config(world: str = ""):
    config = negclip.get_config(world)
    config.name = "NegCLIP-SP"
    config.data.mixture.main = c.part(f"naturel/{world or 'full'}", "single_pair")
    return config
