"""Config of the runs started by the process tests, which take seconds on the world of ``worlds.py``. The argument is
the objective."""

from naturel_jax import config as c

# objective -> (preset, recipe): softmax with the sentinel, sigmoid without.
_FORMS = {"softmax": ("tiny-clip", "single_pair"), "sigmoid": ("tiny-siglip", "two_pairs")}


def get_config(objective: str = "softmax"):
    config = c.base()
    config.name = f"tiny {objective}"
    config.objective.name = objective
    config.preset, recipe = _FORMS[objective]
    config.data.mixture.main = c.part("naturel/tiny", recipe)
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
