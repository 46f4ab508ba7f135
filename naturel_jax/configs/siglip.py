"""SigLIP row: Google's B/16, unchanged. With ``:scenes``, a tiny SigLIP trained on captions with shuffled words."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import drawn_world


def get_config(world: str = "") -> ConfigDict:
    config = c.base()
    config.name = "SigLIP"
    config.objective.name = "sigmoid"
    if not world:
        config.init = "hf:google/siglip-base-patch16-224"
        return config
    drawn_world.use(config, world)
    config.preset = "tiny-siglip"
    config.data.mixture.main = c.part(f"naturel/{world}", "bag_of_words")
    config.duration = "400 steps"
    return config
