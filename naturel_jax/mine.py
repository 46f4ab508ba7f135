"""Mines negative images for a split of a NatuRel dataset.

    naturel-mine --dataset ~/tfds/naturel/full/4.0.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds, for every image and triplet, other images that show the same classes in another relation or with swapped roles,
then the nearest images according to the model. Without ``--model`` the order is random and there are no nearest images.
With ``--pool``, a folder that naturel-embed has written, embeddings stay on the disk, and the nearest are found by an
index, which is built beside them once.

Shape letters: N images, D embedding.
"""

import argparse
import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.items import prepared
from naturel_jax.storage import object_folders, once, staging
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.progress import Progress
from tfds_naturel.hard_images import mining


def embeddings(records: prepared.Records, source: str, dtype: str, batch_size: int) -> np.ndarray:
    """Unit embeddings [N, D], float32, of the images, computed by the model at ``source``.

    Raises UserError if an image cannot be read, and whatever ``weights.load`` raises.
    """
    # These imports take seconds, and a run without a model does not need them.
    from naturel_jax.benchmarks.benchmark import Image
    from naturel_jax.evaluators.embed import load_encoder

    encoder, params = load_encoder(source, dtype=dtype, batch_size=batch_size)
    images = [Image(str(n), functools.partial(prepared.read_image, records, n)) for n in range(len(records))]
    with Progress(total=len(images), unit="image", desc="embedding") as progress:
        zimg_ND, faults = encoder.images(params, images, progress.update)
    if faults:
        n, reason = next(iter(faults.items()))
        raise UserError(f"{len(faults):,} images of the dataset cannot be read; the first is number {n}: {reason}")
    return zimg_ND


def parse_margins(options: argparse.Namespace) -> mining.Margins:
    """The margins of the flags. Raises UserError for an empty range, and for margins without embeddings."""
    margins = mining.Margins(*(getattr(options, field.name) for field in dataclasses.fields(mining.Margins)))
    if margins.range_min < 0 or (margins.range_max is not None and margins.range_max <= margins.range_min):
        raise UserError(f"--range_min {margins.range_min} --range_max {margins.range_max}: expected 0 <= min < max")
    if margins != mining.Margins() and not (options.model or options.pool):
        raise UserError("margins compare embeddings: add --pool or --model")
    return margins


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a prepared folder, .../naturel/<config>/<version>")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=epath.Path, required=True, help="the Parquet file")
    embedded = parser.add_mutually_exclusive_group()
    embedded.add_argument("--model", help="run:DIR, hf:owner/name, a folder or a file")
    embedded.add_argument("--pool", type=cli.on_disk, help="what naturel-embed wrote; it may have other images too")
    parser.add_argument("--memory_gb", type=float, default=4.0, help="with --pool: most memory for the index")
    parser.add_argument("--count", type=int, default=8, help="maximum number of negatives per image and triplet")
    parser.add_argument("--range_min", type=int, default=0, help="skip this many of the nearest images")
    parser.add_argument(
        "--range_max", type=int, help="look no further among the nearest. Default: RANGE_MIN + 4 * COUNT"
    )
    parser.add_argument("--max_score", type=float, help="highest cosine of a negative")
    positive = "than the positive: of at most 256 other images annotated with the triplet, the nearest"
    parser.add_argument("--absolute_margin", type=float, help=f"a negative's cosine is lower by this {positive}")
    parser.add_argument("--relative_margin", type=float, help=f"a negative's cosine is lower by this share {positive}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    if options.count < 1 or options.batch_size < 1:
        raise UserError(f"--count {options.count} --batch_size {options.batch_size}: expected at least 1 of each")
    if options.memory_gb < 0.01:
        raise UserError(f"--memory_gb {options.memory_gb}: expected at least 0.01")
    margins, dropped = parse_margins(options), Counter[str]()
    records = prepared.open_split(staging.stage(options.dataset), options.split).records
    shown = prepared.survey(records)
    zimg_ND: mining.Embeddings | None = None
    search, about = None, dict[str, Any]()
    if options.pool:
        from naturel_jax.evaluators.pool.mining import open_dataset  # as above

        zimg_ND, search, about = open_dataset(options.pool, shown.image_ids, int(options.memory_gb * 2**30))
    elif options.model:
        zimg_ND = embeddings(records, options.model, options.dtype, options.batch_size)
    mined = mining.mine(shown, options.count, options.seed, zimg_ND, search, margins, dropped)
    with object_folders.made_locally(options.out) as out:
        rows, checksum = mining.save(out, mined), once.checksum(Path(out))
        object_folders.publish(out, options.out)
    counts = {reason: number for reason, number in dropped.most_common() if number}
    report = {"rows": rows, "dropped": counts, "margins": dataclasses.asdict(margins), "index": about, "xxh3": checksum}
    storage.write_json(options.out.with_name(f"{options.out.name}.json"), report)
    print(f"{options.out}: negatives for {rows:,} of {len(shown.shown):,} (image, triplet) pairs")
    print("candidates left out:", ", ".join(f"{reason} {number:,}" for reason, number in counts.items()) or "none")


if __name__ == "__main__":
    cli.run(main)
