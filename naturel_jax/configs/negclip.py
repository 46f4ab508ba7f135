"""NegCLIP row: CLIP fine-tuned on captions and their order shuffles (arXiv 2210.01936); on COCO for the real models.

The published setup uses mined hard images instead of the blank image, and NegCLIP's own training file. To reproduce it,
run ``python -m tfds_naturel.build negclip_tsv`` and add ``--config.data.mixture.main.dataset=naturel/negclip_tsv
--config.data.mixture.main.hard_images=data/naturel/negclip_tsv/4.1.0/hard_images.parquet``. To evaluate the published
weights: ``--config clip --config.init=negclip-b32:negclip.pth --config.name=NegCLIP``.
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import clip, drawn_world


def get_config(world: str = "") -> ConfigDict:
    config = c.base()
    config.name = "NegCLIP"
    if world:
        drawn_world.use(config, world)
        config.init = f"base:clip_{world}"
        config.bases[f"clip_{world}"] = clip.get_config(world)
        config.duration = "300 steps"
        config.data.mixture.main = c.part(f"naturel/{world}", "order_shuffles")
    else:
        config.init = "hf:openai/clip-vit-base-patch32"
        config.duration = "5 epochs"
        config.data.mixture.main = c.part("naturel/coco_order", "one_pair")
    return config
