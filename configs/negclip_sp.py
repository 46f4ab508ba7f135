"""Row NegCLIP-SP (single pair): CLIP fine-tuned on one random complex positive and one random complex negative an
image, a blank picture as negative image."""

from configs import clip
from naturel_jax import config as c


def get_config(world: str = ""):
    config = c.base()
    config.name = "NegCLIP-SP"
    if world:
        c.scenes(config, world)
        config.init, config.base = f"run:runs/clip_{world}", clip.get_config(world)
        config.duration = "600 steps"
    else:
        config.init = "hf:openai/clip-vit-base-patch32"
        config.duration = "5 epochs"
    config.data.mixture.main = c.part(f"naturel/{world or 'full'}", "single_pair")
    return config
