"""SigLIP-TP (two pairs) row: SigLIP fine-tuned on two positives and two negatives per image."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import drawn_world, siglip


def get_config(world: str = "") -> ConfigDict:
    config = c.base()
    config.name = "SigLIP-TP"
    config.objective.name = "sigmoid"
    if world:
        drawn_world.use(config, world)
        config.init = f"base:siglip_{world}"
        config.bases[f"siglip_{world}"] = siglip.get_config(world)
        config.duration = "300 steps"
    else:
        config.init = "hf:google/siglip-base-patch16-224"
        config.duration = "5 epochs"
        config.optim.update({"lr": 1e-5, "warmup": "5%", "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0})
    config.data.mixture.main = c.part(f"naturel/{world or 'full'}", "two_pairs")
    return config
