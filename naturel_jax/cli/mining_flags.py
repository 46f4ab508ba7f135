"""The flags of naturel-mine."""

import argparse
import dataclasses
import math

from etils import epath

from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining

IMAGE, TEXT = "image", "text"  # --query


def parse_margins(options: argparse.Namespace) -> mining.Margins:
    """The margins of the flags. Raises UserError for an empty range, a margin that is not finite, and margins without
    embeddings."""
    margins = mining.Margins(*(getattr(options, field.name) for field in dataclasses.fields(mining.Margins)))
    if margins.range_min < 0 or (margins.range_max is not None and margins.range_max <= margins.range_min):
        raise UserError(f"--range_min {margins.range_min} --range_max {margins.range_max}: expected 0 <= min < max")
    for name, value in dataclasses.asdict(margins).items():
        if not -math.inf < (value or 0) < math.inf:  # no cosine is above nan, nor below
            raise UserError(f"--{name} {value}: expected a finite number")
    if margins != mining.Margins() and not (options.model or options.pool or options.watch):
        raise UserError("margins compare embeddings: add --pool or --model")
    return margins


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--dataset", help="a prepared folder, .../naturel/<config>/<version>")
    subject.add_argument("--watch", type=epath.Path, metavar="WORKDIR", help="mine again from this run's checkpoints")
    parser.add_argument("--split", help="of the dataset. Default: train")
    parser.add_argument("--out", type=epath.Path, help="the Parquet file")
    parser.add_argument("--model", help="run:DIR, hf:owner/name, a folder or a file")
    parser.add_argument("--pool", type=cli.on_disk, help="what naturel-embed wrote; it may have other images too")
    near = "what negatives are near to; text: the first true caption of the triplet, by --model, also that of the pool"
    parser.add_argument("--query", default=IMAGE, choices=[IMAGE, TEXT], help=near)
    parser.add_argument("--memory_gb", type=float, default=4.0, help="with --pool: most memory for the index")
    parser.add_argument("--count", type=int, default=8, help="maximum number of negatives per image and triplet")
    parser.add_argument("--range_min", type=int, default=0, help="skip this many of the nearest images")
    parser.add_argument("--range_max", type=int, help="look no further than this. Default: RANGE_MIN + 4 * COUNT")
    parser.add_argument("--max_score", type=float, help="highest cosine of a negative")
    positive = (
        "than the positive: of at most 256 other images annotated with the triplet, the nearest; of text, the image"
    )
    parser.add_argument("--absolute_margin", type=float, help=f"a negative's cosine is lower by this {positive}")
    parser.add_argument("--relative_margin", type=float, help=f"a negative's cosine is lower by this share {positive}")
    divided = parser.add_mutually_exclusive_group()
    divided.add_argument("--beam", metavar="OPTIONS", help="share the images among Beam's workers: runner=DirectRunner")
    share = "mine only each COUNT-th shard of the images; 0/COUNT waits for the others, and writes the file"
    divided.add_argument("--share", default="", metavar="INDEX/COUNT", help=share)
    page = "also write OUT.html, a page with the images of so many rows, drawn at random"
    parser.add_argument("--gallery", type=int, default=0, metavar="ROWS", help=page)
    published = "also write DIR/train_neg_clip.tsv and the images, for NegCLIP's own training code"
    parser.add_argument("--negclip", type=cli.on_disk, metavar="DIR", help=published)
    foils = "also write this Parquet file, a source for training: images with their true captions, and for each the "
    foils += "nearest caption of other images that contradicts it, by --model"
    parser.add_argument("--foils", type=cli.on_disk, metavar="FILE", help=foils)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser


def check(options: argparse.Namespace) -> None:
    """Raises UserError for flags that do not fit."""
    cli.check_counts(options, "count", "batch_size")
    if not 0.01 <= options.memory_gb <= 1 << 20:
        raise UserError(f"--memory_gb {options.memory_gb}: expected 0.01 to {1 << 20:,}")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: expected a whole number of at least 0")
    if not 0 <= options.gallery <= 1000:
        raise UserError(f"--gallery {options.gallery}: expected 0 to 1,000 rows, which a page can show")
    if not options.watch and not options.out:
        raise UserError("--dataset needs --out, the file to write")
    reads = "--query text" if options.query == TEXT else "--foils" if options.foils else ""
    if reads and not (options.model or options.watch):
        raise UserError(f"{reads} compares captions: add --model, whose text tower embeds them")
    if options.model and options.pool and not reads:
        raise UserError(
            "--pool has the images' embeddings, and --model beside it would embed captions: add --query text"
        )
    if (options.beam is not None or options.share) and ((options.model and not options.pool) or in_store(options.out)):
        flag = "--share" if options.share else "--beam"
        raise UserError(f"{flag} needs --pool in place of --model, made by naturel-embed, and an --out on a disk")
    others = "split", "out", "model", "pool", "beam", "share", "gallery", "negclip", "foils"
    if given := [name for name in others if options.watch and getattr(options, name)]:
        raise UserError(f"--{given[0]} is for --dataset: with --watch, the run's config says what is mined")
