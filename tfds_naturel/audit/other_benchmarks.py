"""Pairs of captions from SugarCrepe's files, to attack like those of the bank. No images are read."""

from pathlib import Path

from tfds_naturel.audit.attack import Pair
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import load_json, read_regular

SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
_FIELDS = ("caption", "negative_caption", "filename")


def sugarcrepe(folder: Path) -> dict[str, list[Pair]]:
    """Subset -> its pairs, grouped by image, from whichever of SugarCrepe's seven files are in ``folder``.

    Raises UserError if there is none, or if one is malformed.
    """
    files = {name: path for name in SUGARCREPE if (path := folder / f"{name}.json").exists()}
    if not files:
        raise UserError(f"{folder}: contains none of SugarCrepe's files ({', '.join(SUGARCREPE)}, each .json)")
    return {name: _pairs(path) for name, path in files.items()}


def _pairs(path: Path) -> list[Pair]:
    rows = load_json(path, read_regular(path))
    if not isinstance(rows, dict):
        raise UserError(f"{path}: found {rows!r:.80}, expected an object of items, as in SugarCrepe's files")
    pairs = []
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}: item {key!r:.80} is {row!r:.80}, expected an object with {', '.join(_FIELDS)}")
        for name in _FIELDS:
            if not isinstance(row.get(name), str):
                raise UserError(f"{path}: item {key!r:.80} has {name} {row.get(name)!r:.80}, expected a string")
        pairs.append(Pair(*(row[name] for name in _FIELDS)))
    if len({pair.group for pair in pairs}) < 2:  # one to train on and one to test on
        raise UserError(f"{path}: expected items of at least two images, found {len(pairs)} items of fewer")
    return pairs
