"""CLIP-NatuRel and NegCLIP-AP, trained on fewer or more sets of captions of each triplet than the world has.

    naturel-sweep --config proofs/lab_wordings.py --seeds 18,19,20 --baseline "NegCLIP-AP, 4 sets" \
        --out build/lab_wordings

Images are the same in all, and the captions of the test splits are those of ``WORLD``. No other experiment here has
this base or these seeds.
"""

import dataclasses

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from proofs import worlds
from tfds_naturel.scenes.scene import CONFIGS

WORLD = "scenes_agents"
SETS = (2, CONFIGS[WORLD].variants, 16)


def get_config() -> ConfigDict:
    rows = {}
    for sets in SETS:
        world = dataclasses.replace(CONFIGS[WORLD], name=f"{WORLD}_{sets}", variants=sets)
        runs = lab.get_config("recipes").runs
        for key in ("negclip_ap", "clip_naturel"):
            row = rows[f"{key}_{sets}"] = runs[key]
            row.name = f"{row.name}, {sets} sets"
            row.bases.clip_lab.seed = 4
            if sets != CONFIGS[WORLD].variants:
                for part in row.data.mixture.values():
                    part.dataset = worlds.add(world)
    return c.suite(rows)
