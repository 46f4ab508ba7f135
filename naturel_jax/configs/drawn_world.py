"""Settings that all configs share on the drawn world."""

from ml_collections import ConfigDict


def use(config: ConfigDict, world: str) -> ConfigDict:
    """Adapts ``config`` to the drawn world ``world``, such as ``scenes``, sized for two CPU cores: a tiny model,
    trained from scratch or from a base trained from scratch. Every benchmark in both tables has a twin there."""
    twins = ("vg_relation", "vg_attribution", "winoground", "sugarcrepe")
    config.eval.benchmarks = ("naturel", "naturel_unseen", "naturel_contrast", *twins)
    config.eval.naturel = f"naturel/{world}"
    config.eval.during.naturel = "150 steps"
    config.data.batch_size = 64
    config.data.crop_scale = (0.8, 1.0)
    config.checkpoint.every = "100 steps"
    config.compute.unroll = True
    config.optim.update({"lr": 1e-3, "warmup": "5%", "weight_decay": 0.01, "clip_norm": 1.0})
    return config
