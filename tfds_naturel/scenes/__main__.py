"""Writes a contact sheet of the scenes world: one row of images per relation."""

import argparse
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes.scene import CONFIGS, Scene, ScenesConfig, draw
from tfds_naturel.scenes.world import FAMILIES


def sheet(config: ScenesConfig, columns: int) -> np.ndarray:
    """The first ``columns`` training images of each relation with their triplets, as uint8 [height, width, 3] RGB."""
    rows: dict[str, list[np.ndarray]] = {relation: [] for family in FAMILIES for relation in family.relations}
    scenes = (draw(config, "train", index) for index in itertools.count())
    while min(map(len, rows.values())) < columns:
        scene = next(scenes)
        if len(row := rows[scene.triplet.relation]) < columns:
            row.append(_cell(scene))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows.values()])


def _cell(scene: Scene) -> np.ndarray:
    cell = np.full((216, 192, 3), 255, np.uint8)
    cell[2:190, 2:190] = cv2.resize(scene.image, (188, 188), interpolation=cv2.INTER_CUBIC)
    for row, triplet in enumerate((*scene.facts, *(triplet for _, triplet in scene.attributes))):
        cv2.putText(cell, str(triplet), (4, 200 + 11 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tfds_naturel.scenes", description=__doc__)
    parser.add_argument("--sheet", required=True, type=cli.on_disk, metavar="PNG", help="output file")
    parser.add_argument("--config", choices=CONFIGS, default="scenes")
    parser.add_argument("--columns", type=int, default=8)
    options = parser.parse_args(arguments)
    cli.check_counts(options, "columns", most=1024)
    if options.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {options.sheet}: expected a path ending in .png")
    Image.fromarray(sheet(CONFIGS[options.config], options.columns)).save(options.sheet)


if __name__ == "__main__":
    cli.run(main)
