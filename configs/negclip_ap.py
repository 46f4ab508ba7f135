"""Row NegCLIP-AP (all pairs): the three complex pairs and the simple pair of an image, mixed with order shuffles."""

from configs import negclip_sp
from naturel_jax import config as c


def get_config(world: str = ""):
    config = negclip_sp.get_config(world)
    config.name = "NegCLIP-AP"
    config.data.mixture.pairs = c.part(f"naturel/{world or 'full'}", "all_pairs", weight=0.75)
    config.data.mixture.orders = c.part(f"naturel/{world}" if world else "coco_order", "order_shuffles", weight=0.25)
    del config.data.mixture.main
    return config
