"""Downloads COCO's Karpathy training split, from which the builder makes ``naturel/coco_order``.

    python -m naturel_jax.reproduce.coco_train --out DIR
    python -m tfds_naturel.build coco_order --manual_dir DIR --data_dir data

``--images N`` takes the first N images only. Run it again to continue after an interruption.
"""

import argparse
import functools
import json
from collections.abc import Sequence

from naturel_jax.benchmarks import karpathy
from naturel_jax.benchmarks.benchmark import Source
from naturel_jax.benchmarks.download import download
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.common.files import parse_json

FILE = "coco/coco_karpathy_train.json"


def source(images: int | None) -> Source:
    """The split's file and the images that it names, or only the first ``images`` of them."""
    return Source(
        karpathy.COCO.licence,
        karpathy.COCO.where,
        FILE,
        {FILE: f"{karpathy.FILES}/coco_karpathy_train.json"},
        {FILE: functools.partial(first_images, images=images)},
        images=functools.partial(karpathy.coco_images, file=FILE),
    )


def first_images(data: bytes, images: int | None) -> bytes:
    """The records (JSON) of the first ``images`` images. Raises ValueError for anything but such records."""
    rows = parse_json(data)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("image"), str) for row in rows
    ):
        raise ValueError("not a list of records with the field 'image'")
    kept = set(list(dict.fromkeys(row["image"] for row in rows))[:images])
    return data if images is None else json.dumps([row for row in rows if row["image"] in kept]).encode()


def main(arguments: Sequence[str]) -> None:
    """The command line. Raises Stopped if some files are left for another run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=cli.on_disk, required=True, help="folder that gets coco/")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        raise UserError(f"--images {options.images}: expected at least 1")
    problems = download("COCO's training split", source(options.images), options.out)
    for problem in problems:
        print(f"could not download {problem}", flush=True)
    if problems:
        raise Stopped(f"{len(problems):,} files could not be downloaded; run the same command again to fetch them")
    print(f"{options.out / FILE}: complete")


if __name__ == "__main__":
    cli.run(main)
