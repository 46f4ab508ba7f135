"""The laboratory's CLIP-NatuRel and NegCLIP-AP, from another base: one that is trained with the seed 1.

naturel-sweep --config proofs/lab_other_base.py --seeds 5,6,7 --baseline NegCLIP-AP --out build/lab_other_base
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab


def get_config() -> ConfigDict:
    runs = lab.get_config("recipes").runs
    rows = {name: runs[name] for name in ("clip", "negclip_ap", "clip_naturel")}
    for row in rows.values():
        row.bases.clip_lab.seed = 1
    return c.suite(rows)
