"""CLIC (arXiv 2505.24424): CLIP on two images and their captions joined, with a hard negative made by exchanging words;
every other batch is plain CLIP.

docs/methods.md says what differs from the published code.
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import negclip


def get_config(world: str = "") -> ConfigDict:
    config = negclip.get_config(world)
    config.name = "CLIC"
    dataset = f"naturel/{world or 'full'}"
    config.data.mixture = {"joined": c.part(dataset, "clic"), "plain": c.part(dataset, "positives")}
    config.data.turns = "batches"
    config.objective.name = "softmax_each"
    config.objective.terms = {"own_foils": {"weight": 1.0}, "text_distance": {"weight": 2.0, "further": 1}}
    if not world:
        config.data.batch_size = 800
        config.duration = "1 epoch"
        config.optim.update({"warmup": "20%", "weight_decay": 0.1, "eps": 1e-8})
        config.optim.lr_multipliers = (("image/.*", 0.0),)
    return config
