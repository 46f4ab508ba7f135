"""The published checkpoints that a reproduction evaluates, whose known scores it must give.

A checkpoint is named ``REPOSITORY@REVISION``: ``main`` where the publisher of the scores does not say which revision
was measured.
"""

import dataclasses
from pathlib import Path

from naturel_jax.report import published
from naturel_jax.report.published import CHECKPOINTS, Checkpoint
from naturel_jax.reproduce.stages import EVALUATED, WEIGHTS

_NEGCLIP = (
    "605 MB, from Google Drive (https://github.com/mertyg/vision-language-models-are-bows, "
    "model_zoo/__init__.py has its number: `gdown 1ooVVPxB-tvptgmHlIMMFGV3Cg-IrhbRZ`)"
)


def _checkpoint(name: str, row: str, by_hand: str = "") -> Checkpoint:
    """The published ``row`` under the name that it has in the tables of a reproduction."""
    one = CHECKPOINTS[f"{row} (arXiv 2406.09388)"]
    scores = {metric: value for metric, value in one.scores.items() if metric.split("/")[0] in EVALUATED}
    source = one.source.replace(":", f":{WEIGHTS}/") if by_hand else one.source
    return dataclasses.replace(one, name=name, source=source, scores=scores, by_hand=by_hand)


KNOWN = {
    "openai/clip-vit-base-patch32@main": _checkpoint("CLIP", "CLIP B/32"),
    "google/siglip-base-patch16-224@main": _checkpoint("SigLIP", "SigLIP B/16"),
    "mertyg/vision-language-models-are-bows@main": _checkpoint("NegCLIP B/32", "NegCLIP B/32", _NEGCLIP),
}


def read(path: Path | None) -> dict[str, Checkpoint]:
    """``KNOWN``, updated with the checkpoints in the file ``path``. Raises UserError for a malformed file."""
    return KNOWN | published.read(path)
