"""NegCLIP-AP (all pairs) row: an image's three complex pairs and its simple pair, mixed with COCO-Order and half of
Winoground; in the drawn worlds, mixed with order shuffles of their own captions."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip


def get_config(world: str = "") -> ConfigDict:
    config = negclip.get_config(world)
    config.name = "NegCLIP-AP"
    config.data.mixture.main = c.part(f"naturel/{world or 'full'}", "all_pairs", weight=0.75)
    if world:
        config.data.mixture.orders = c.part(f"naturel/{world}", "order_shuffles", weight=0.25)
    else:
        config.data.mixture.orders = c.part("naturel/coco_order", "one_pair", weight=0.24)
        config.data.mixture.winoground = c.part("naturel/winoground_part", "one_pair", weight=0.01)
    return config
