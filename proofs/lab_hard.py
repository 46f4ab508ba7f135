"""The laboratory's recipes on the world with the most classes, whose images have other objects beside the pair.

    naturel-sweep --config proofs/lab_hard.py --seeds 3 --baseline NegCLIP-AP --out build/lab_hard
    naturel-sweep --config proofs/lab_hard.py --seeds 3 --baseline SigLIP-TP --out build/lab_hard

``scenes_hard`` with as many images as ``scenes_agents``, drawn as small as the laboratory's models see them. No method
was tried on it before.
"""

import dataclasses

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

SMALL = dataclasses.replace(
    CONFIGS["scenes_hard"], name="scenes_hard_small", size=64, sizes=CONFIGS["scenes_agents"].sizes
)


def get_config() -> ConfigDict:
    if SMALL.name not in CONFIGS:  # worlds that are drawn when they are missing
        CONFIGS[SMALL.name] = SMALL
        Naturel.BUILDER_CONFIGS.append(scenes(SMALL))
    dataset, runs = f"naturel/{SMALL.name}", lab.get_config("recipes").runs
    for run in runs.values():
        for config in (run, *run.bases.values()):
            config.eval.naturel = dataset
            for part in config.data.mixture.values():
                part.dataset = dataset
    return c.suite(runs)
