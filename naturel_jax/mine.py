"""Mines negative images for a split of a NatuRel dataset.

    python -m naturel_jax.mine --dataset ~/tfds/naturel/full/4.0.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds, for every image and triplet, other images that show the same classes in another relation or with swapped roles,
then the nearest images according to the model. Without ``--model`` the order is random and there are no nearest images.

Shape letters: N images, D embedding.
"""

import argparse
import functools
from collections.abc import Sequence

import numpy as np
from etils import epath

from naturel_jax.data.items import prepared
from naturel_jax.storage import object_folders, staging
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


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a prepared folder, .../naturel/<config>/<version>")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=epath.Path, required=True, help="the Parquet file")
    parser.add_argument("--model", help="run:DIR, hf:owner/name, a folder or a file")
    parser.add_argument("--count", type=int, default=8, help="maximum number of negatives per image and triplet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args(arguments)
    if options.count < 1 or options.batch_size < 1:
        raise UserError(f"--count {options.count} --batch_size {options.batch_size}: expected at least 1 of each")
    records = prepared.open_split(staging.stage(options.dataset), options.split).records
    shown = prepared.survey(records)
    zimg_ND = embeddings(records, options.model, options.dtype, options.batch_size) if options.model else None
    mined = mining.mine(shown, options.count, options.seed, zimg_ND)
    with object_folders.made_locally(options.out) as out:
        rows = mining.save(out, mined)
        object_folders.publish(out, options.out)
    print(f"{options.out}: negatives for {rows:,} of {len(shown.shown):,} (image, triplet) pairs")


if __name__ == "__main__":
    cli.run(main)
