"""Chance level of each metric: the score of a model that guesses."""

import re

# Metric (a pattern) -> probability that an item counts as right if its cosines are independent draws from one
# continuous distribution. Other metrics have no chance level, or one that depends on the items (retrieval, zero-shot).
CHANCE: dict[str, float] = {
    r"(naturel|naturel_unseen|vg_relation|vg_attribution|sugarcrepe|valse)/.*": 1 / 2,
    r"(winoground|bivlc|colorswap|eqben)/(text|image)(/.*)?": 1 / 4,
    r"(winoground|bivlc|colorswap|eqben)/group(/.*)?": 1 / 6,
    r"(winoground|bivlc|colorswap|eqben)/matching(/.*)?": 1 / 2,
    r"(coco_order|flickr30k_order)/precision@1": 1 / 5,
    r"whatsup/([AB]|relation/.*)": 1 / 4,
    r"whatsup/[AB]/pair": 1 / 4**2,
    r"whatsup/[AB]/set": 1 / 4**4,
    r"whatsup/(coco|vg)_qa_.*": 1 / 2,
    r"sugarcrepe_pp/.*": 1 / 3,
    r"naturel_contrast/\w+_choice(/.*)?": 1 / 2,
    r"naturel_contrast/\w+_(text|image)": 1 / 4,
    r"naturel_contrast/\w+_group": 1 / 6,
    r"(naturel_bindings|naturel_positions)/pair(/.*)?": 1 / 2,
    r"(naturel_bindings|naturel_positions)/(text|image)(/.*)?": 1 / 4,
    r"(naturel_bindings|naturel_positions)/group(/.*)?": 1 / 6,
}


def chance(metric: str) -> float | None:
    """Chance level of ``metric``, in [0, 1]; None if it is not known."""
    return next((value for pattern, value in CHANCE.items() if re.fullmatch(pattern, metric)), None)
