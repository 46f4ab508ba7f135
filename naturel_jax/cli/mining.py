"""What naturel-mine does: loads a dataset and its embeddings, mines, and writes the files that its flags ask for.

Shape letters: N images, D embedding.
"""

import argparse
import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from naturel_jax.cli import mining_flags as flags
from naturel_jax.data.items import prepared
from naturel_jax.devices import processes
from naturel_jax.evaluators.pool import foils, negclip, sharded
from naturel_jax.evaluators.pool import mining as pool
from naturel_jax.report import mined
from naturel_jax.storage import staging
from tfds_naturel.common import extras
from tfds_naturel.hard_images import mining
from tfds_naturel.hard_images.survey import Survey

_Rows = Iterator[mining.MinedRow]
_Listed = dict[tuple[str, str], mining.MinedRow]


def run(options: argparse.Namespace) -> None:
    """Mines as ``options`` of ``mining_flags`` say, and prints what was written. A process with a share that is not the
    first only mines it. Raises UserError."""
    margins, dropped = flags.parse_margins(options), Counter[str]()
    share = processes.parse_share(options.share, {})
    workers = extras.beam_options(options.beam) if options.beam is not None else None
    records = prepared.open_split(staging.stage(options.dataset), options.split or "train").records
    shown, by_image = prepared.survey(records), options.query == flags.IMAGE
    loaded = options.model, options.dtype, options.batch_size, None if by_image else options.pool
    model = pool.load(*loaded) if options.model else None
    zimg_ND, search, about = _embeddings(options, records, shown, model)
    find = None
    if model and zimg_ND is not None and not by_image:
        find = functools.partial(pool.queries, records, shown, model, zimg_ND, margins.stop(options.count))
    if workers or options.share:
        what = options.pool, int(options.memory_gb * 2**30), options.count, options.seed, margins
        job = sharded.make_job(options.out, records.version, *what, model.fingerprint if model and find else "")
        sharded.mine(job, shown, workers, find) if workers else sharded.mine_share(job, shown, share, find)
        if share.index:
            place = sharded.shards(options.out)
            return print(f"share {options.share} is in {place}; 0/{share.count} writes {options.out}")
        rows = sharded.mined(job, shown, dropped)
    else:
        queries = find() if find else None
        rows = mining.mine(shown, options.count, options.seed, zimg_ND, search, margins, dropped, None, queries)
    in_page, listed = list[mining.MinedRow](), _Listed()
    rows = mined.sample(rows, options.gallery, in_page) if options.gallery else rows
    rows = _kept(rows, listed) if options.negclip else rows
    pool.save(options.out, rows, shown, dropped, margins, about, options.query)
    _write_more(options, in_page, listed, records, shown, dropped, model)
    if workers or options.share:
        shutil.rmtree(sharded.shards(options.out), ignore_errors=True)


def _embeddings(
    options: argparse.Namespace, records: prepared.Records, shown: Survey, model: pool.Model | None
) -> tuple[mining.Embeddings | None, mining.Search | None, dict[str, Any]]:
    """Embeddings [N, D] of the images, a search for the nearest, and what is known of its index; as far as there are
    any."""
    if options.pool:
        budget = int(options.memory_gb * 2**30)
        found = pool.open_dataset(options.pool, shown.image_ids, budget, options.query == flags.IMAGE)
        about = ", ".join(f"{name} {value}" for name, value in found[2].items())
        print(f"{options.pool}: {about or 'without an index'}")
        return found
    return pool.embeddings(records, model) if model else None, None, {}


def _kept(rows: _Rows, listed: _Listed) -> _Rows:
    for row in rows:
        listed[row[:2]] = row
        yield row


def _write_more(
    options: argparse.Namespace,
    in_page: Sequence[mining.MinedRow],
    listed: _Listed,
    records: prepared.Records,
    shown: Survey,
    dropped: Mapping[str, int],
    model: pool.Model | None,
) -> None:
    """The files that flags ask for beside the mined images."""
    if options.gallery:
        page, number = options.out.with_name(f"{options.out.name}.html"), {x: n for n, x in enumerate(shown.image_ids)}
        mined.write(page, in_page, lambda name: prepared.read_image(records, number[name]), dropped)
        print(f"gallery: {page}")
    if options.negclip:
        rows, left_out = negclip.write(options.negclip, listed, records)
        print(f"{options.negclip / negclip.FILE}: {rows:,} rows; {left_out:,} have no negative with a row: left out")
    if options.foils and model:
        images = foils.write(options.foils, records, shown, model)
        print(f"{options.foils}: {images:,} images; {len(records) - images:,} have no caption with a foil: left out")
