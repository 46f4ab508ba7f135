"""Config of a sweep: short runs from a base that they share. The argument is the data folder."""

from tests.helpers import tiny_config


def get_config(data_dir: str):
    base, tuned = tiny_config.get_config(), tiny_config.get_config()
    for config in (base, tuned):
        config.data.dir = data_dir
        config.duration, config.eval.during.naturel, config.checkpoint.every = "4 steps", "4 steps", "2 steps"
        config.optim.warmup = "1 steps"
    tuned.init, tuned.preset = "base:base", ""
    tuned.bases.base = base
    return tuned


def sweep():
    return {"grid": {"config.optim.lr": (1e-4, 1e-2)}, "seeds": 2}
