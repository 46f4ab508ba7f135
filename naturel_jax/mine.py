"""Mines negative images for a split of a NatuRel dataset.

    naturel-mine --dataset ~/tfds/naturel/full/4.1.0 --split train --out negatives.parquet \
        --model hf:openai/clip-vit-base-patch32

finds, for every image and triplet, other images that show the same classes in another relation or with swapped roles,
then the nearest images according to the model. Without ``--model`` the order is random and there are no nearest images.
With ``--pool``, a folder that naturel-embed has written, embeddings stay on the disk, and the nearest are found by an
index, which is built beside them once. With ``--query text``, they are nearest to a true caption instead of the image.
With ``--beam`` or ``--share``, workers or processes divide the images, and the file is the same. With ``--watch``, hard
images are mined again for a run that trains meanwhile. Shape letters: N images, D embedding.
"""

import argparse
import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from naturel_jax.cli import mining_flags as flags
from naturel_jax.data.items import prepared
from naturel_jax.storage import staging
from tfds_naturel.common import cli, extras
from tfds_naturel.hard_images import mining

Rows = Iterator[mining.MinedRow]


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = flags.make_parser(__doc__).parse_args(arguments)
    flags.check(options)
    if options.watch:
        return _watch(options)
    workers = extras.beam_options(options.beam) if options.beam is not None else None
    from naturel_jax.devices import processes  # these imports take seconds, and --help does not need them
    from naturel_jax.evaluators.pool import foils, sharded
    from naturel_jax.evaluators.pool import mining as pool
    from naturel_jax.report import mined

    share = processes.parse_share(options.share, {})
    margins, dropped, budget = flags.parse_margins(options), Counter[str](), int(options.memory_gb * 2**30)
    records = prepared.open_split(staging.stage(options.dataset), options.split or "train").records
    shown, by_image = prepared.survey(records), options.query == flags.IMAGE
    loaded = options.model, options.dtype, options.batch_size, None if by_image else options.pool
    model = pool.load(*loaded) if options.model else None
    zimg_ND: mining.Embeddings | None = None
    search, about, find = None, dict[str, Any](), None
    if options.pool:
        zimg_ND, search, about = pool.open_dataset(options.pool, shown.image_ids, budget, by_image)
        print(f"{options.pool}: {', '.join(f'{name} {value}' for name, value in about.items()) or 'without an index'}")
    elif model:
        zimg_ND = pool.embeddings(records, model)
    if model and zimg_ND is not None and not by_image:
        find = functools.partial(pool.queries, records, shown, model, zimg_ND, margins.stop(options.count))
    if workers or options.share:
        what = options.pool, budget, options.count, options.seed, margins
        job = sharded.make_job(options.out, records.version, *what, model.fingerprint if model and find else "")
        sharded.mine(job, shown, workers, find) if workers else sharded.mine_share(job, shown, share, find)
        if share.index:
            place = sharded.shards(options.out)
            return print(f"share {options.share} is in {place}; 0/{share.count} writes {options.out}")
        rows = sharded.mined(job, shown, dropped)
    else:
        queries = find() if find else None
        rows = mining.mine(shown, options.count, options.seed, zimg_ND, search, margins, dropped, None, queries)
    in_page, listed = list[mining.MinedRow](), dict[tuple[str, str], mining.MinedRow]()
    rows = mined.sample(rows, options.gallery, in_page) if options.gallery else rows
    rows = _listed(rows, listed) if options.negclip else rows
    pool.save(options.out, rows, shown, dropped, margins, about, options.query)
    _write_more(options, in_page, listed, records, shown.image_ids, dropped)
    if options.foils and model:
        images = foils.write(options.foils, records, shown, model)
        print(f"{options.foils}: {images:,} images; {len(records) - images:,} have no caption with a foil: left out")
    if workers or options.share:
        shutil.rmtree(sharded.shards(options.out), ignore_errors=True)


def _listed(rows: Rows, listed: dict[tuple[str, str], mining.MinedRow]) -> Rows:
    for row in rows:
        listed[row[:2]] = row
        yield row


def _write_more(
    options: argparse.Namespace,
    in_page: Sequence[mining.MinedRow],
    listed: Mapping[tuple[str, str], mining.MinedRow],
    records: prepared.Records,
    image_ids: Sequence[str],
    dropped: Mapping[str, int],
) -> None:
    from naturel_jax.evaluators.pool import negclip
    from naturel_jax.report import mined

    if options.gallery:
        page, number = options.out.with_name(f"{options.out.name}.html"), {name: n for n, name in enumerate(image_ids)}
        mined.write(page, in_page, lambda name: prepared.read_image(records, number[name]), dropped)
        print(f"gallery: {page}")
    if options.negclip:
        rows, left_out = negclip.write(options.negclip, listed, records)
        print(f"{options.negclip / negclip.FILE}: {rows:,} rows; {left_out:,} have no negative with a row: left out")


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
