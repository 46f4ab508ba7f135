"""CLIP-NatuRel and NegCLIP-AP with fewer and with more sets of captions for each triplet in training, from the base of
``lab_rates`` and with seeds that were not used before. All are evaluated on the captions of ``scenes_agents``.

    python -m proofs.lab_captions
    naturel-sweep --config proofs/lab_captions.py --seeds 15,16,17 --out DIR --baseline "NegCLIP-AP, 4 sets"
    naturel-sweep --config proofs/lab_captions.py --seeds 15,16,17 --out DIR --baseline "CLIP-NatuRel, 4 sets"

The first command draws the worlds, in ``data``: like ``scenes_agents``, which has 4 sets of 8 captions for each
triplet, 3 of the 8 complex and true.
"""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from proofs.lab_settings import ROWS
from tfds_naturel.common import cli
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

SETS = (2, 4, 16)  # with one, some images would show what a false caption of it says


def get_config() -> ConfigDict:
    rows = {}
    for name, key in ROWS.items():
        for number in SETS:
            row = lab.get_config("recipes").runs[key]
            row.name = f"{name}, {number} sets"
            row.bases.clip_lab.seed = 3
            for part in row.data.mixture.values():
                part.dataset = f"naturel/agents_{number}"
            rows[f"{key}_{number}"] = row
    return c.suite(rows)


def main(_: Sequence[str]) -> None:
    """Draws the worlds that are not there."""
    for number in SETS:
        world = dataclasses.replace(CONFIGS["scenes_agents"], name=f"agents_{number}", variants=number)
        Naturel(config=scenes(world), data_dir="data").download_and_prepare()


if __name__ == "__main__":
    cli.run(main)
