"""The laboratory's recipes, from other bases: those that are trained with the seed 1.

naturel-sweep --config proofs/lab_other_base.py --seeds 5,6,7 --baseline NegCLIP-AP --out build/lab_other_base
naturel-sweep --config proofs/lab_other_base.py --seeds 5,6,7 --baseline SigLIP-TP --out build/lab_other_base

With C2LIP, a method without foils: another true caption takes the place of its noun phrases.
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from naturel_jax.data.batches.recipes import RECIPES, Recipe


def get_config() -> ConfigDict:
    runs = lab.get_config("recipes").runs
    RECIPES["two_positives"] = Recipe(positives=2)
    runs.c2lip = runs.siglip_tp.copy_and_resolve_references()
    runs.c2lip.name = "C2LIP"
    runs.c2lip.data.mixture.main.recipe = "two_positives"
    runs.c2lip.objective.terms = {"further_positives": {"weight": 1.0, "form": "sigmoid"}}
    for row in runs.values():
        for base in row.bases.values():
            base.seed = 1
    return c.suite(runs)
