"""SigLIP-NatuRel: SigLIP-TP with CLIP-NatuRel's terms, for an image's own foils and between its two true captions.
Captions that are true of another image are not negatives of it. Compared on a drawn world (docs/lab.md); not tried on
the real weights yet."""

from ml_collections import ConfigDict

from naturel_jax.configs import siglip_tp


def get_config(world: str = "") -> ConfigDict:
    config = siglip_tp.get_config(world)
    config.name = "SigLIP-NatuRel"
    config.objective.counting = "match_ignore"
    config.objective.terms = {
        "own_foils": {"weight": 1.0, "form": "sigmoid"},
        "text_contrast": {"weight": 0.5, "counting": "match_ignore"},
    }
    return config
