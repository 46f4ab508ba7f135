"""Known scores of published checkpoints, which a correct evaluation must reproduce.

A checkpoint is named ``REPOSITORY@REVISION``: ``main`` where the publisher of the scores does not say which revision
was measured. ``--known FILE`` adds others, or replaces these: JSON with the fields of ``Checkpoint``,

    {"google/siglip-large-patch16-256@main": {"name": "SigLIP L/16-256", "source": "hf:google/siglip-large-patch16-256",
      "scores": {"winoground/text": 0.3725}, "items": {"winoground": {"number": 400}}, "origin": "arXiv 2406.09388"}}
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naturel_jax.report.published import ITEM_SETS, VL_COMPO, ItemSet
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json

WEIGHTS = "{weights}"  # placeholder in a source for the folder of weights that no program may download


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """``name``: its row in the tables. ``source``: what ``naturel_jax.load`` reads. ``scores``: metric -> score in
    [0, 1]; ``items``: benchmark -> the items that it was measured on; ``origin``: who measured it. ``by_hand``: how to
    get a file that no program may download. ``row``: its row in ``published.VL_COMPO``, if it has one."""

    name: str
    source: str
    scores: Mapping[str, float]
    items: Mapping[str, ItemSet]
    origin: str
    by_hand: str = ""
    row: str = ""


# Scores from vl_compo, which evaluates all models with the same code. Its COCO recalls are printed with one decimal.
# Its scores on ARO's random shuffles are left out, since our shuffles differ.
_SHUFFLED = ("coco_order/", "flickr30k_order/")
_RECALL = ("coco_retrieval/image_to_text@1", "coco_retrieval/text_to_image@1")
_ITEMS = ITEM_SETS | {"coco_retrieval": ItemSet(5_000)}
_NEGCLIP = (
    "605 MB, from Google Drive (https://github.com/mertyg/vision-language-models-are-bows, "
    "model_zoo/__init__.py has its number: `gdown 1ooVVPxB-tvptgmHlIMMFGV3Cg-IrhbRZ`)"
)


def _checkpoint(name: str, row: str, source: str, recall: tuple[float, float], by_hand: str = "") -> Checkpoint:
    """``recall``: in percent."""
    scores = {metric: value for metric, value in VL_COMPO[row].items() if not metric.startswith(_SHUFFLED)}
    scores |= {metric: value / 100 for metric, value in zip(_RECALL, recall, strict=True)}
    return Checkpoint(name, source, scores, _ITEMS, "arXiv 2406.09388", by_hand, row)


KNOWN = {
    "openai/clip-vit-base-patch32@main": _checkpoint(
        "CLIP", "CLIP B/32", "hf:openai/clip-vit-base-patch32", (50.1, 30.5)
    ),
    "google/siglip-base-patch16-224@main": _checkpoint(
        "SigLIP", "SigLIP B/16", "hf:google/siglip-base-patch16-224", (65.7, 47.8)
    ),
    "mertyg/vision-language-models-are-bows@main": _checkpoint(
        "NegCLIP B/32", "NegCLIP B/32", f"negclip-b32:{WEIGHTS}/negclip.pth", (59.3, 45.2), _NEGCLIP
    ),
}


def read(path: Path | None) -> dict[str, Checkpoint]:
    """``KNOWN``, updated with the checkpoints in the file ``path``. Raises UserError for a malformed file."""
    if path is None:
        return dict(KNOWN)
    try:
        added = {key: _parsed(fields) for key, fields in parse_json(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"--known {path}: {error!r:.200}; expected JSON as in naturel_jax/reproduce/known.py: REPOSITORY@REVISION "
            "-> name, source, scores, items, origin"
        ) from error
    return KNOWN | added


def _parsed(fields: Mapping[str, Any]) -> Checkpoint:
    scores = {str(metric): float(value) for metric, value in fields["scores"].items()}
    if bad := [metric for metric, value in scores.items() if not 0 <= value <= 1]:
        raise ValueError(f"score of {bad[0]} is {scores[bad[0]]}, expected a share from 0 to 1")
    items = {name: ItemSet(int(one["number"]), str(one.get("digest", ""))) for name, one in fields["items"].items()}
    if unknown := {metric.split("/")[0] for metric in scores} - items.keys():
        raise ValueError(f"items of {min(unknown)} are missing")
    name, source, origin = (str(fields[field]) for field in ("name", "source", "origin"))
    return Checkpoint(name, source, scores, items, origin, str(fields.get("by_hand", "")))
