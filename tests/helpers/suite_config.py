"""Config of a suite that does everything once: draws a world, trains a base and a run from it, and evaluates. The
argument is the data folder."""

import dataclasses

from naturel_jax import config as c
from tests.helpers import tiny_config
from tfds_naturel.scenes.scene import CONFIGS

WORLD = dataclasses.replace(CONFIGS["scenes"], name="small", sizes=(96, 16, 16, 16))


def get_config(data_dir: str):
    CONFIGS[WORLD.name] = WORLD  # before TFDS lists the builder's configs
    base, tuned, untrained = (tiny_config.get_config() for _ in range(3))
    for name, config in {"base": base, "tuned": tuned, "untrained": untrained}.items():
        config.name = name
        config.data.dir = data_dir
        config.data.mixture.main.dataset = config.eval.naturel = f"naturel/{WORLD.name}"
        config.duration, config.eval.during.naturel, config.checkpoint.every = "6 steps", "2 steps", "3 steps"
    for config in (tuned, untrained):
        config.init, config.preset = "base:base", ""
        config.bases.base = base
    del untrained.data.mixture.main
    return c.suite({"tuned": tuned, "untrained": untrained}, {}, "")
