"""Writes a contact sheet of the scenes world: one row of images per relation."""

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig, draw
from tfds_naturel.scenes.world import FAMILIES

_RELATIONS = tuple(relation for family in FAMILIES for relation in family.relations)


def sheet(config: ScenesConfig, relations: tuple[str, ...], columns: int) -> np.ndarray:
    """The first ``columns`` training images of each relation with their triplets, as uint8 [height, width, 3] RGB."""
    return np.concatenate([np.concatenate(_row(config, relation, columns), axis=1) for relation in relations])


def _row(config: ScenesConfig, relation: str, columns: int) -> list[np.ndarray]:
    cells: list[np.ndarray] = []
    index = 0
    while len(cells) < columns:
        scene = draw(config, "train", index)
        if scene.triplet.relation == relation:
            texts = [str(scene.triplet), *(str(triplet) for _, triplet in scene.attributes)]
            cells.append(_cell(scene.image, texts))
        index += 1
    return cells


def _cell(image: np.ndarray, texts: list[str]) -> np.ndarray:
    cell = np.full((216, 192, 3), 255, np.uint8)
    cell[2:190, 2:190] = cv2.resize(image, (188, 188), interpolation=cv2.INTER_CUBIC)
    for row, text in enumerate(texts):
        cv2.putText(cell, text, (4, 200 + 11 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tfds_naturel.scenes", description=__doc__)
    parser.add_argument("--sheet", required=True, type=cli.on_disk, metavar="PNG", help="output file")
    parser.add_argument("--config", choices=CONFIGS, default="scenes")
    parser.add_argument("--relation", choices=_RELATIONS, action="append", help="only this relation (repeatable)")
    parser.add_argument("--columns", type=int, default=8)
    options = parser.parse_args(arguments)
    if options.columns < 1:
        raise UserError(f"--columns {options.columns}: expected at least 1")
    if options.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {options.sheet}: expected a path ending in .png")
    pixels = sheet(CONFIGS[options.config], tuple(options.relation or _RELATIONS), options.columns)
    Image.fromarray(pixels).save(options.sheet)


if __name__ == "__main__":
    cli.run(main)
