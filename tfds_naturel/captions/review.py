"""The review page: a single HTML file, usable without a server, where annotators accept or reject captions.

Photos are optional: a JSON file of ``{triplet: [{"image": path or URL, "subject": [xmin, ymin, xmax, ymax],
"object": [...]}]}``, with boxes in fractions of the image; ``object`` is left out for an attribute.
"""

import importlib.resources
import json
from pathlib import Path
from typing import Any

from tfds_naturel import pages
from tfds_naturel.captions.bank import Bank
from tfds_naturel.errors import UserError
from tfds_naturel.schema import Triplet


def page(bank: Bank, photos: Path | None = None) -> str:
    """The page's HTML. Raises UserError for a malformed photos file."""
    shown = _photos(photos) if photos is not None else {}
    rows = [
        {
            "triplet": str(triplet),
            "relation": triplet.relation,
            "photos": shown.get(str(triplet), []),
            **{name: getattr(caption, name) for name in ("text", "kind", "pair", "polarity", "operation", "shape")},
        }
        for triplet, captions in bank.items()
        for caption in captions
    ]
    template = (importlib.resources.files("tfds_naturel.captions") / "review.html").read_text(encoding="utf-8")
    return template.replace("/*ROWS*/[]", pages.script_json(rows))


def _photos(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(listed, dict):
        raise UserError(f"{path}: found a {type(listed).__name__}, expected a JSON object with triplets as keys")
    for triplet, photos in listed.items():
        try:
            Triplet.parse(triplet)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        for photo in photos:
            boxes = [photo[role] for role in ("subject", "object") if role in photo]
            image = photo.get("image", "")
            is_safe = isinstance(image, str) and image and not image.lower().startswith(("javascript:", "data:"))
            if not (is_safe and boxes and all(len(box) == 4 and all(0 <= v <= 1 for v in box) for box in boxes)):
                raise UserError(
                    f"{path}: photo of {triplet} is {str(photo)[:200]}; expected image and boxes of 4 fractions"
                )
    return listed
