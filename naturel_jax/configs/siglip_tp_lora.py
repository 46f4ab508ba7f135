"""SigLIP-TP with LoRA: adapters of the attention layers of both towers are trained, the model itself stays."""

from ml_collections import ConfigDict

from naturel_jax.configs import siglip_tp


def get_config(world: str = "") -> ConfigDict:
    config = siglip_tp.get_config(world)
    config.name = "SigLIP-TP, LoRA"
    config.adapter.update({"rank": 16, "targets": (".*/attn/(query|key|value|out)",)})
    if not world:
        config.optim.lr = 1e-4  # ten times that of the whole model, as usual for LoRA
    return config
