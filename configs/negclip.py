"""Row NegCLIP: CLIP fine-tuned on captions and their order shuffles (arXiv 2210.01936), COCO's for the real models.

As published it is with mined hard images instead of the blank picture and with NegCLIP's own training file, after
``python -m tfds_naturel.build negclip_tsv``: ``--config.data.mixture.main.dataset=naturel/negclip_tsv
--config.data.mixture.main.hard_images=data/naturel/negclip_tsv/1.0.0/hard_images.parquet``. To evaluate the published
weights: ``configs/clip.py --config.init=negclip-b32:negclip.pth --config.name=NegCLIP``.
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
