"""Mines negative images for a split of a NatuRel dataset.

    naturel-mine --dataset ~/tfds/naturel/full/4.1.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds, for every image and triplet, other images that show the same classes in another relation or with swapped roles,
then the nearest images according to the model. Without ``--model`` the order is random and there are no nearest images.
With ``--pool``, a folder that naturel-embed has written, embeddings stay on the disk, and the nearest are found by an
index, which is built beside them once. With ``--query text``, they are nearest to a true caption instead of the image.
With ``--beam`` or ``--share``, workers or processes divide the images, and the file is the same. With ``--watch``, hard
images are mined again for a run that trains meanwhile.
"""

import argparse
from collections.abc import Sequence

from naturel_jax.cli import mining_flags as flags
from tfds_naturel.common import cli


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = flags.make_parser(__doc__).parse_args(arguments)
    flags.check(options)
    if options.watch:
        return _watch(options)
    from naturel_jax.cli import mining  # these imports take seconds, and --help does not need them
    from naturel_jax.devices import preemption

    preemption.install_handler()
    with preemption.interruptible():  # shards that are mined stay, and the same command mines the others
        mining.run(options)


def _watch(options: argparse.Namespace) -> None:
    from naturel_jax.cli import compilation_cache  # these imports take seconds too
    from naturel_jax.devices import preemption
    from naturel_jax.evaluators.pool import remining

    preemption.install_handler()
    compilation_cache.enable()
    margins, sizes = flags.parse_margins(options), (options.dtype, options.batch_size)
    remining.watch(options.watch, options.count, options.seed, margins, *sizes, options.query)


if __name__ == "__main__":
    cli.run(main)
