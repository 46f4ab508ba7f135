"""Row NegCLIP: CLIP fine-tuned with order shuffles of the caption as negatives (arXiv 2210.01936)."""

from configs import negclip_sp
from naturel_jax import config as c


def get_config(world: str = ""):
    config = negclip_sp.get_config(world)
    config.name = "NegCLIP"
    config.data.mixture.main = c.part(f"naturel/{world}" if world else "coco_order", "order_shuffles")
    return config
