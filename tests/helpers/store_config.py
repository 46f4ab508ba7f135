"""Config of a short run that draws its world, trains and evaluates; the argument is the data folder."""

import dataclasses

from tests.helpers import tiny_config
from tfds_naturel.scenes.scene import CONFIGS

WORLD = dataclasses.replace(CONFIGS["scenes"], name="few", sizes=(24, 8, 8, 8))


def get_config(data_dir: str):
    CONFIGS[WORLD.name] = WORLD  # before TFDS lists the builder's configs
    config = tiny_config.get_config()
    config.data.dir, config.data.batch_size = data_dir, 8
    config.data.mixture.main.dataset = config.eval.naturel = f"naturel/{WORLD.name}"
    config.duration, config.checkpoint.every, config.eval.during = "6 steps", "2 steps", {}
    config.eval.benchmarks = ("naturel",)
    config.tensorboard = True
    return config
