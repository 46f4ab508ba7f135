"""CLIP row: OpenAI's ViT-B/32, unchanged. With ``:scenes``, a tiny CLIP trained on captions with shuffled words:
it learns objects, not relations."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import drawn_world


def get_config(world: str = "") -> ConfigDict:
    config = c.base()
    config.name = "CLIP"
    if not world:
        config.init = "hf:openai/clip-vit-base-patch32"
        return config
    drawn_world.use(config, world)
    config.preset = "tiny-clip"
    config.data.mixture.main = c.part(f"naturel/{world}", "bag_of_words")
    config.duration = "200 steps"
    return config
