"""The laboratory's SigLIP-NatuRel and SigLIP-TP, from another base: one that is trained with the seed 1.

naturel-sweep --config proofs/lab_other_siglip.py --seeds 5,6,7 --baseline SigLIP-TP --out build/lab_other_siglip
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab


def get_config() -> ConfigDict:
    runs = lab.get_config("recipes").runs
    rows = {name: runs[name] for name in ("siglip", "siglip_tp", "siglip_naturel")}
    for row in rows.values():
        row.bases.siglip_lab.seed = 1
    return c.suite(rows)
