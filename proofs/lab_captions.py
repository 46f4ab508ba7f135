"""CLIP-NatuRel and NegCLIP-AP with fewer and with more sets of captions for each triplet in training, from a base and
with seeds that were not used before. All are evaluated on the world's own captions.

    python -m proofs.lab_captions --draw
    naturel-sweep --config proofs/lab_captions.py --seeds 15,16,17 --out build/lab_captions
    python -m proofs.lab_captions build/lab_captions

The first command draws the worlds, the last one prints means, and differences from the sets that the world has, with
95% intervals over seeds and images. A set is 8 captions, of which 3 are complex and true; worlds differ in nothing else
but in which images show what.
"""

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from absl import logging as absl_logging
from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from naturel_jax.report import seeds
from proofs.lab_settings import ROWS, SCORES
from tfds_naturel.common import cli
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

SETS = (2, 4, 16)  # with one, some images would show what each of their false captions says
OWN = 4  # as many as the world has
WORLD = CONFIGS["scenes_agents"]


def get_config() -> ConfigDict:
    rows = {}
    for name, key in ROWS.items():
        for number in SETS:
            row = lab.get_config("recipes").runs[key]
            row.name = f"{name}, {number} sets"
            row.bases.clip_lab.seed = 3
            for part in row.data.mixture.values():
                part.dataset = f"naturel/agents_{number}"
            rows[f"{key}_{number}"] = row
    return c.suite(rows)


def draw() -> None:
    """Draws the worlds; one that is there is left as it is."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    for number in SETS:
        world = dataclasses.replace(WORLD, name=f"agents_{number}", variants=number)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            Naturel(config=scenes(world), data_dir="data").download_and_prepare()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?", default=Path("build/lab_captions"))
    parser.add_argument("--draw", action="store_true", help="draw the worlds instead")
    options = parser.parse_args(arguments)
    if options.draw:
        draw()
        return
    folders = {
        (name, number): sorted(options.sweep.glob(f"{key}_{number}_seed=*"))
        for name, key in ROWS.items()
        for number in SETS
    }
    runs = {str(folder): seeds.of_run(folder) for of_row in folders.values() for folder in of_row}
    read = seeds.read(runs, lambda _: set(SCORES))
    scored = {
        metric: {row: [of[str(folder)] for folder in of_row] for row, of_row in folders.items()}
        for metric, of in read.scored.items()
    }
    print(f"| row | sets | {' | '.join(SCORES)} |\n| :--- | ---: |{' ---: |' * len(SCORES)}")
    for name, number in folders:
        means = (seeds.mean(scored[metric][name, number], *read.counts[metric]).value for metric in SCORES)
        print(f"| {name} | {number} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    differences = [
        seeds.difference(
            f"{name}, {number} sets", metric, scored[metric][name, number], scored[metric][name, OWN], paired=True
        )
        for metric in SCORES
        for name, number in folders
        if number != OWN
    ]
    print(f"\nminus {OWN} sets:\n\n| {' | '.join(seeds.HEAD)} |\n|{' --- |' * len(seeds.HEAD)}")
    for cells in seeds.cells(seeds.adjust(differences)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
