"""Pairs of captions from the files of other benchmarks, to attack like those of the bank. No images are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfds_naturel.audit.attack import Pair
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import load_json, read_regular

SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def sugarcrepe(folder: Path) -> dict[str, list[Pair]]:
    """Subset -> its pairs, grouped by image, from whichever of SugarCrepe's seven files are in ``folder``.

    Raises UserError if there is none, or if one is malformed.
    """
    files = {name: path for name in SUGARCREPE if (path := folder / f"{name}.json").exists()}
    if not files:
        raise UserError(f"{folder}: contains none of SugarCrepe's files ({', '.join(SUGARCREPE)}, each .json)")
    return {name: _sugarcrepe_file(path) for name, path in files.items()}


def _sugarcrepe_file(path: Path) -> list[Pair]:
    rows = load_json(path, read_regular(path))
    if not isinstance(rows, dict):
        raise UserError(f"{path}: not in SugarCrepe's format: found {_kind(rows)}, expected an object of items")
    return [
        Pair(true, false, image)
        for image, true, false in _fields(path, rows.items(), ("filename", "caption", "negative_caption"))
    ]


def aro_relation(path: Path) -> list[Pair]:
    """The pairs of ARO's ``visual_genome_relation.json``, grouped by image. Raises UserError if it is malformed."""
    rows = load_json(path, read_regular(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: not in ARO's format: found {_kind(rows)}, expected a list of items")
    names = ("image_path", "true_caption", "false_caption")
    return [Pair(true, false, image) for image, true, false in _fields(path, enumerate(rows), names)]


def winoground(path: Path) -> list[Pair]:
    """The pairs of Winoground's ``examples.jsonl``: two for each example, since each caption is true of one image.

    Raises UserError if the file is malformed.
    """
    lines = enumerate(read_regular(path).splitlines(), 1)
    rows = [(number, load_json(f"{path} line {number}", line)) for number, line in lines if line.strip()]
    pairs = []
    for number, (first, second) in enumerate(_fields(path, rows, ("caption_0", "caption_1"))):
        pairs += [Pair(first, second, str(number)), Pair(second, first, str(number))]
    return pairs


def _fields(path: Path, rows: Iterable[tuple[object, Any]], names: tuple[str, ...]) -> list[list[str]]:
    """The named strings of every row. Raises UserError naming the first row and field that is not one."""
    values = []
    for key, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}: item {key!r:.80} is {_kind(row)}, expected an object with {', '.join(names)}")
        for name in names:
            if not isinstance(row.get(name), str):
                raise UserError(f"{path}: item {key!r:.80} has {name} {row.get(name)!r:.80}, expected a string")
        values.append([row[name] for name in names])
    if len({first for first, *_ in values}) < 2:  # one to train on and one to test on
        raise UserError(f"{path}: expected items of at least two images, found {len(values)} items of fewer")
    return values


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), repr(value))
