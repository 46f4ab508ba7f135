"""Mines negative images for a split of a NatuRel dataset.

    python -m naturel_jax.mine --dataset ~/tfds/naturel/full/1.0.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds for every image and triplet other images with the same classes in another relation or with swapped roles, then the
nearest by the model. Without ``--model`` the order is random and there are no nearest.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from naturel_jax import weights
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.sharding import make_mesh, param_sharding
from tfds_naturel import mining
from tfds_naturel.schema import Triplet
from tfds_naturel.survey import Survey

Records = Sequence[Mapping[str, Any]]


def survey(records: Records) -> Survey:
    """Which image shows which triplets, from decoded examples."""
    return Survey.take((records[n]["image_id"].decode(), _triplets(records[n])) for n in range(len(records)))


def _triplets(example: Mapping[str, Any]) -> list[Triplet]:
    columns = (example["relations"][name] for name in ("subject", "relation", "object"))
    return list(dict.fromkeys(Triplet(*(text.decode() for text in row)) for row in zip(*columns, strict=True)))


def embeddings(records: Records, source: str, dtype: str, batch_size: int) -> np.ndarray:
    """Unit embeddings [N, D], float32, of the pictures by the model at ``source``. Raises ValueError for a bad one."""
    mesh = make_mesh({"data": -1})
    config, params, processor = weights.load(source, sharding_for=param_sharding(mesh))
    model = Model(config, Compute(dtype=dtype))
    encoder = Encoder(model, processor, mesh=mesh, batch_size=batch_size, pixel_cache_bytes=0)
    images = [Image(str(n), lambda n=n: records[n]["image"]) for n in range(len(records))]
    with tqdm.tqdm(total=len(images), unit="image", desc="embedding") as progress:
        zimg_ND, faults = encoder.images(params, images, progress.update)
    if faults:
        n, reason = next(iter(faults.items()))
        raise ValueError(f"{len(faults):,} pictures of the dataset cannot be read; the first is number {n}: {reason}")
    return zimg_ND


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a prepared folder, .../naturel/<config>/<version>")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file")
    parser.add_argument("--model", help="run:DIR, hf:owner/name, a folder or a file")
    parser.add_argument("--count", type=int, default=8, help="negatives for an image and triplet, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args(argv)
    try:
        builder = tfds.builder_from_directory(options.dataset)
        records = builder.as_data_source(options.split, decoders={"image": tfds.decode.SkipDecoding()})
        shown = survey(records)
        zimg_ND = options.model and embeddings(records, options.model, options.dtype, options.batch_size)
        mined = mining.mine(shown, options.count, options.seed, zimg_ND)
        rows = mining.save(options.out, mining.named(shown, mined))
    except (ValueError, OSError) as error:
        raise SystemExit(f"mine: {error}") from error
    pairs = len(shown.shown)
    print(f"{options.out}: negatives for {rows:,} of {pairs:,} pairs of an image and a triplet")


if __name__ == "__main__":
    main()
