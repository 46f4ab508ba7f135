"""Images per second of the scenes world: drawing alone, and all of ``download_and_prepare``.

python -m perf.scenes [--config scenes_hard] [--images 2000]
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence

from tfds_naturel import naturel
from tfds_naturel.common import cli
from tfds_naturel.scenes.scene import CONFIGS, draw


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="scenes")
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args(arguments)
    config = dataclasses.replace(CONFIGS[options.config], name="timed", sizes=(options.images, 1, 1, 1))
    for warm in (True, False):
        start = time.perf_counter()
        for index in range(options.images // (10 if warm else 1)):
            draw(config, "train", index)
    print(f"draw: {options.images / (time.perf_counter() - start):.0f} images/s on one core")
    with tempfile.TemporaryDirectory() as folder:
        builder = naturel.Naturel(config=naturel.scenes(config), data_dir=folder)
        start = time.perf_counter()
        builder.download_and_prepare()
        print(f"download_and_prepare: {options.images / (time.perf_counter() - start):.0f} images/s")


if __name__ == "__main__":
    cli.run(main)
