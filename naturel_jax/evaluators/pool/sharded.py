"""Mines shard by shard: Apache Beam's workers, or processes with a share each, divide the images of a dataset and read
the same folders.

What is mined for an image does not depend on the others, so the shards together are what one process finds. Their
folder has the survey of the dataset, and a block (``once.write_block``) for each shard that is done.

Shape letters: N images, D embedding.
"""

import dataclasses
import functools
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from naturel_jax import __version__
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators.pool import index
from naturel_jax.evaluators.pool.embedded import EmbeddedPool
from naturel_jax.evaluators.pool.mining import open_dataset
from naturel_jax.storage import once
from naturel_jax.storage.locks import locked
from tfds_naturel.common.files import version_of
from tfds_naturel.hard_images import mining
from tfds_naturel.hard_images.survey import Survey

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_LOG = logging.getLogger(__name__)

SHARD = 8 * mining.ROWS  # images
_SURVEY, _QUERIES = "survey", "queries"
_PAUSE_S = 2.0  # between looks at what the others have mined


@dataclasses.dataclass(frozen=True)
class Job:
    """What ``mining.mine`` is told, as a worker needs it. ``folder``: of the shards; ``pool``: that of the embeddings,
    None without any; ``budget``: bytes of a worker's memory for them."""

    folder: Path
    pool: Path | None
    budget: int
    count: int
    seed: int
    margins: mining.Margins


Find = Callable[[], mining.Queries]


def shards(out: epath.Path) -> Path:
    """Where the shards of the file ``out`` are until it is written."""
    return Path(f"{out}.shards").absolute()


def make_job(
    out: epath.Path,
    version: str,
    pool: Path | None,
    budget: int,
    count: int,
    seed: int,
    margins: mining.Margins,
    model: str = "",
) -> Job:
    """A job whose shards are found again by the same command, with the dataset in the same ``version``, the same
    embeddings and index, and the same version of this program. ``model``: fingerprint of the one that embeds captions,
    if images are near to these."""
    embedded = once.checksum(pool / f"{index.NAME}.json") if pool and not model else model
    if pool and model:
        embedded += version_of(*EmbeddedPool(pool).files)
    key = __version__, version, embedded, count, seed, dataclasses.asdict(margins)
    return Job(once.folder_of(shards(out), key), pool and pool.absolute(), budget, count, seed, margins)


def mine(job: Job, survey: Survey, options: "PipelineOptions", find: Find | None = None) -> None:
    """Workers mine the shards that are not in ``job.folder``. ``find``: finds the queries, if there are any."""
    if left := _left(job, survey, Share(), find):
        import apache_beam  # takes seconds

        with apache_beam.Pipeline(options=options) as pipeline:
            _ = pipeline | apache_beam.Create(left) | apache_beam.Map(functools.partial(_mine, job))


def mine_share(job: Job, survey: Survey, share: Share, find: Find | None = None) -> None:
    """Mines those of the ``share``'s shards that are not in ``job.folder``. The process of the first share then waits
    for the others, and logs how many shards are left."""
    for start in _left(job, survey, share, find):
        _mine(job, start)
    left = [] if share.index else _left(job, survey, Share())
    while left := [start for start in left if not once.is_whole(_read, job, start)]:
        _LOG.info("waiting for %d shards of other processes in %s", len(left), job.folder)
        time.sleep(_PAUSE_S)


def mined(job: Job, survey: Survey, dropped: Counter[str]) -> Iterator[mining.MinedRow]:
    """What ``mining.mine`` yields and counts, once all shards are in ``job.folder``."""
    for start in _starts(survey):
        rows, counts = _read(job, start)
        dropped.update(counts)
        yield from rows


def _starts(survey: Survey) -> range:
    return range(0, len(survey.image_ids), SHARD)


def _left(job: Job, survey: Survey, share: Share, find: Find | None = None) -> list[int]:
    """The shards of the share that are not whole. If there are any, the survey and what ``find`` finds, once for all
    processes, is in ``job.folder``."""
    starts = _starts(survey)[share.index :: share.count]
    left = [start for start in starts if not once.is_whole(_read, job, start)]
    if left and not once.is_whole(once.read_block, path := job.folder / _SURVEY):
        job.folder.mkdir(parents=True, exist_ok=True)
        once.write_block(path, survey.to_bytes())
    if left and find:
        with locked(job.folder / once.LOCK):
            if not once.is_whole(once.read_block, path := job.folder / _QUERIES):
                np.savez(content := io.BytesIO(), **find()._asdict())
                once.write_block(path, content.getvalue())
    return left


def _mine(job: Job, start: int) -> None:
    """Writes the shard of the images from number ``start`` on."""
    survey, zimg_ND, search, queries = _open(job)
    images, dropped = range(start, min(start + SHARD, len(survey.image_ids))), Counter[str]()
    rows = mining.mine(survey, job.count, job.seed, zimg_ND, search, job.margins, dropped, images, queries)
    once.write_block(_path(job, start), json.dumps([list(rows), dropped]).encode())


@functools.lru_cache(1)
def _open(job: Job) -> tuple[Survey, mining.Embeddings | None, mining.Search | None, mining.Queries | None]:
    survey = Survey.from_bytes(once.read_block(job.folder / _SURVEY))
    if job.pool is None:
        return survey, None, None, None
    queries = None
    if (path := job.folder / _QUERIES).exists():
        queries = mining.Queries(**np.load(io.BytesIO(once.read_block(path))))
    return survey, *open_dataset(job.pool, survey.image_ids, job.budget, queries is None)[:2], queries


def _read(job: Job, start: int) -> tuple[list[mining.MinedRow], dict[str, int]]:
    rows, dropped = json.loads(once.read_block(_path(job, start)))
    return [tuple(row) for row in rows], dropped


def _path(job: Job, start: int) -> Path:
    return job.folder / f"{start:010}"
