"""Config of the runs started by the process tests, which take seconds on the world of ``worlds.py``. The argument is
the objective, or clic: joined and plain images in turns."""

from naturel_jax import config as c
from naturel_jax.configs import clic

# objective -> (preset, recipe): softmax with the sentinel, sigmoid without, clic with the recipes of its config.
_FORMS = {"softmax": ("tiny-clip", "single_pair"), "sigmoid": ("tiny-siglip", "two_pairs"), "clic": ("tiny-clip", "")}


def get_config(objective: str = "softmax"):
    config = clic.get_config("tiny") if objective == "clic" else c.base()
    config.init, config.bases, config.compute.unroll = "", {}, False  # what is unrolled compiles for longer
    config.preset, recipe = _FORMS[objective]
    if recipe:
        config.objective.name = objective
        config.data.mixture.main = c.part("naturel/tiny", recipe)
    config.name = f"tiny {objective}"
    config.data.batch_size = 16
    config.duration = "20 steps"
    config.optim.update({"lr": 1e-4, "warmup": "5 steps", "clip_norm": 1.0})
    config.eval.naturel = "naturel/tiny"
    config.eval.during.naturel = "10 steps"
    config.eval.batch_size = 64
    config.checkpoint.update({"every": "5 steps", "keep": 10})
    config.log_every = "1 steps"
    config.tensorboard = False
    return config
