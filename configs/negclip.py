"""Row NegCLIP: CLIP fine-tuned on captions and their order shuffles (arXiv 2210.01936), COCO's for the real models.

Give ``--config.data.mixture.main.hard_images=FILE`` (python -m naturel_jax.mine) to train with mined hard images, as
published, instead of the blank picture. To evaluate the published weights: ``configs/clip.py
--config.init=negclip-b32:negclip.pth --config.name=NegCLIP``.
"""

from configs import negclip_sp
from naturel_jax import config as c


def get_config(world: str = ""):
    config = negclip_sp.get_config(world)
    config.name = "NegCLIP"
    if world:
        config.data.mixture.main = c.part(f"naturel/{world}", "order_shuffles")
    else:
        config.data.mixture.main = c.part("naturel/coco_order", "one_pair")
    return config
