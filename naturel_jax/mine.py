"""Mines negative images for a split of a NatuRel dataset.

    naturel-mine --dataset ~/tfds/naturel/full/4.0.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds, for every image and triplet, other images that show the same classes in another relation or with swapped roles,
then the nearest images according to the model. Without ``--model`` the order is random and there are no nearest images.
With ``--pool``, a folder that naturel-embed has written, embeddings stay on the disk, and the nearest are found by an
index, which is built beside them once. With ``--beam`` or ``--share``, workers or processes divide the images, and the
file is the same. With ``--watch``, hard images are mined again for a run that trains meanwhile.

Shape letters: N images, D embedding.
"""

import argparse
import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from etils import epath

from naturel_jax.data.items import prepared
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common import cli, extras
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining


def parse_margins(options: argparse.Namespace) -> mining.Margins:
    """The margins of the flags. Raises UserError for an empty range, and for margins without embeddings."""
    margins = mining.Margins(*(getattr(options, field.name) for field in dataclasses.fields(mining.Margins)))
    if margins.range_min < 0 or (margins.range_max is not None and margins.range_max <= margins.range_min):
        raise UserError(f"--range_min {margins.range_min} --range_max {margins.range_max}: expected 0 <= min < max")
    if margins != mining.Margins() and not (options.model or options.pool or options.watch):
        raise UserError("margins compare embeddings: add --pool or --model")
    return margins


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--dataset", help="a prepared folder, .../naturel/<config>/<version>")
    subject.add_argument("--watch", type=epath.Path, metavar="WORKDIR", help="mine again from this run's checkpoints")
    parser.add_argument("--split", help="of the dataset. Default: train")
    parser.add_argument("--out", type=epath.Path, help="the Parquet file")
    embedded = parser.add_mutually_exclusive_group()
    embedded.add_argument("--model", help="run:DIR, hf:owner/name, a folder or a file")
    embedded.add_argument("--pool", type=cli.on_disk, help="what naturel-embed wrote; it may have other images too")
    parser.add_argument("--memory_gb", type=float, default=4.0, help="with --pool: most memory for the index")
    parser.add_argument("--count", type=int, default=8, help="maximum number of negatives per image and triplet")
    parser.add_argument("--range_min", type=int, default=0, help="skip this many of the nearest images")
    parser.add_argument("--range_max", type=int, help="look no further than this. Default: RANGE_MIN + 4 * COUNT")
    parser.add_argument("--max_score", type=float, help="highest cosine of a negative")
    positive = "than the positive: of at most 256 other images annotated with the triplet, the nearest"
    parser.add_argument("--absolute_margin", type=float, help=f"a negative's cosine is lower by this {positive}")
    parser.add_argument("--relative_margin", type=float, help=f"a negative's cosine is lower by this share {positive}")
    divided = parser.add_mutually_exclusive_group()
    divided.add_argument("--beam", metavar="OPTIONS", help="share the images among Beam's workers: runner=DirectRunner")
    share = "mine only each COUNT-th shard of the images; 0/COUNT waits for the others, and writes the file"
    divided.add_argument("--share", default="", metavar="INDEX/COUNT", help=share)
    page = "also write OUT.html, a page with the images of so many rows, drawn at random"
    parser.add_argument("--gallery", type=int, default=0, metavar="ROWS", help=page)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    cli.check_counts(options, "count", "batch_size")
    if options.memory_gb < 0.01:
        raise UserError(f"--memory_gb {options.memory_gb}: expected at least 0.01")
    if not 0 <= options.gallery <= 1000:
        raise UserError(f"--gallery {options.gallery}: expected 0 to 1,000 rows, which a page can show")
    if options.watch:
        return _watch(options)
    if not options.out:
        raise UserError("--dataset needs --out, the file to write")
    if (options.beam is not None or options.share) and (options.model or in_store(options.out)):
        flag = "--share" if options.share else "--beam"
        raise UserError(f"{flag} needs --pool in place of --model, made by naturel-embed, and an --out on a disk")
    workers = extras.beam_options(options.beam) if options.beam is not None else None
    from naturel_jax.devices import processes  # these imports take seconds, and --help does not need them
    from naturel_jax.evaluators.pool import beam
    from naturel_jax.evaluators.pool import mining as pool
    from naturel_jax.report import mined as gallery

    share = processes.parse_share(options.share, {})
    margins, dropped, budget = parse_margins(options), Counter[str](), int(options.memory_gb * 2**30)
    records = prepared.open_split(staging.stage(options.dataset), options.split or "train").records
    shown = prepared.survey(records)
    zimg_ND: mining.Embeddings | None = None
    search, about = None, dict[str, Any]()
    if options.pool:
        zimg_ND, search, about = pool.open_dataset(options.pool, shown.image_ids, budget)
        print(f"{options.pool}: {', '.join(f'{name} {value}' for name, value in about.items())}")
    elif options.model:
        zimg_ND = pool.embeddings(records, options.model, options.dtype, options.batch_size)
    if workers or options.share:
        what = options.pool, budget, options.count, options.seed, margins
        job = beam.make_job(options.out, records.version, *what)
        beam.mine(job, shown, workers) if workers else beam.mine_share(job, shown, share)
        mined = beam.mined(job, shown, dropped)
    else:
        mined = mining.mine(shown, options.count, options.seed, zimg_ND, search, margins, dropped)
    if share.index:
        return print(f"share {options.share} is in {beam.shards(options.out)}; 0/{share.count} writes {options.out}")
    in_page = list[mining.MinedRow]()
    mined = gallery.sample(mined, options.gallery, in_page) if options.gallery else mined
    pool.save(options.out, mined, shown, dropped, margins, about)
    if options.gallery:
        page, number = options.out.with_name(f"{options.out.name}.html"), {n: k for k, n in enumerate(shown.image_ids)}
        gallery.write(page, in_page, lambda name: prepared.read_image(records, number[name]), dropped)
        print(f"gallery: {page}")
    if workers or options.share:
        shutil.rmtree(beam.shards(options.out), ignore_errors=True)


def _watch(options: argparse.Namespace) -> None:
    others = "split", "out", "model", "pool", "beam", "share", "gallery"
    if given := [name for name in others if getattr(options, name)]:
        raise UserError(f"--{given[0]} is for --dataset: with --watch, the run's config says what is mined")
    from naturel_jax.cli import compilation_cache  # these imports take seconds too
    from naturel_jax.devices import preemption
    from naturel_jax.evaluators.pool import remining

    preemption.install_handler()
    compilation_cache.enable()
    margins, sizes = parse_margins(options), (options.dtype, options.batch_size)
    remining.watch(options.watch, options.count, options.seed, margins, *sizes)


if __name__ == "__main__":
    cli.run(main)
