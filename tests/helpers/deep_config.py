"""``tiny_config`` with an image tower of many blocks that are not scanned: XLA compiles its step for a minute."""

import dataclasses

from naturel_jax.models.presets import PRESETS
from tests.helpers import tiny_config

DEPTH = 96


def get_config():
    sizes = PRESETS["tiny-clip"]
    transformer = dataclasses.replace(sizes.image.transformer, depth=DEPTH)
    PRESETS["tiny-clip"] = dataclasses.replace(sizes, image=dataclasses.replace(sizes.image, transformer=transformer))
    config = tiny_config.get_config()
    config.compute.unroll, config.eval.during = True, {}
    return config
