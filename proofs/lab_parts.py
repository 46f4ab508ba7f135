"""What each part of CLIP-NatuRel adds to NegCLIP-AP, on the world that had no part in the recipe's choice.

naturel-sweep --config proofs/lab_parts.py --seeds 4 --baseline CLIP-NatuRel --out build/lab_parts
"""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab

ALL_FOILS = {"objective.hard_negative_weight": 1.0}  # in the softmax over the batch as well
NO_TEXT_TERM = {"objective.terms": {"own_foils": {"weight": 1.0}}}
CONTRADICTING = {"objective.counting": "published"}  # true captions of other images are negatives
WITHOUT = {
    "CLIP-NatuRel": {},
    "foils in the softmax as well": ALL_FOILS,
    "no text term": NO_TEXT_TERM,
    "contradicting labels": CONTRADICTING,
    "own-foil term only": NO_TEXT_TERM | CONTRADICTING,
    "NegCLIP-AP, own-foil term": ALL_FOILS | NO_TEXT_TERM | CONTRADICTING,
}


def get_config() -> ConfigDict:
    runs = lab.get_config("recipes").runs
    rows = {"negclip_ap": runs.negclip_ap}
    for index, (name, fields) in enumerate(WITHOUT.items()):
        row = runs.clip_naturel.copy_and_resolve_references()
        row.name = name
        row.update_from_flattened_dict(fields)
        rows[f"without_{index}"] = row
    return c.suite(rows)
