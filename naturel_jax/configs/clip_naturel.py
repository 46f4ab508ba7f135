"""CLIP-NatuRel: NegCLIP-AP's captions, with foils that compete with their own image's captions only, and true captions
of an image that attract each other. Chosen on the drawn world (docs/lab.md); not tried on the real weights yet.

The foils leave the softmax over the batch for the ``own_foils`` term, as in FSC-CLIP (arXiv 2410.05210).
``text_contrast`` has READ-CLIP's weight (arXiv 2510.16540). A caption that is true of another image of the batch is no
negative of it. To stay nearer to the base, add ``"base_distance": {"weight": 3.0, "mse": 0.0, "cosine": 1.0}`` to the
terms.
"""

from ml_collections import ConfigDict

from naturel_jax.configs import negclip_ap


def get_config(world: str = "") -> ConfigDict:
    config = negclip_ap.get_config(world)
    config.name = "CLIP-NatuRel"
    config.objective.counting = "match_ignore"
    config.objective.hard_negative_weight = 0.0
    config.objective.terms = {
        "own_foils": {"weight": 1.0},
        "text_contrast": {"weight": 0.5, "counting": "match_ignore"},
    }
    return config
