"""Embeds a pool of images, and their captions, part by part. Each part is written once.

Shape letters: I images of a part, D embedding.
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.devices import preemption
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.evaluators.pool.files import Output
from naturel_jax.evaluators.pool.images import DiskError, Entry, Part, Pool
from naturel_jax.models.two_tower import Params
from tfds_naturel.common.progress import Progress


class Row(NamedTuple):
    """The name, caption and embedding [D] of an image of a part, and why it cannot be read, or ""."""

    part: Part
    name: str
    caption: str
    z_D: np.ndarray
    reason: str


class Embedder(NamedTuple):
    """What embeds: ``dtype`` is that of the files."""

    encoder: Encoder
    params: Params
    dtype: str


def embed(pool: Pool, embedder: Embedder, output: Output, share: Share) -> tuple[int, int]:
    """Embeds the parts of ``share`` that are not done; returns the numbers of images and of bad rows among them.

    Raises OSError for a disk that fails, Stopped, and what storage raises.
    """
    waiting = collections.deque[tuple[Part, str, str]]()  # not the images, which may hold their bytes
    good = bad = 0

    def images() -> Iterator[Image]:
        for entry in _left(pool, output, share):
            waiting.append((entry.part, entry.image.key, entry.caption))
            yield entry.image

    def rows() -> Iterator[Row]:
        for z_D, reason in embedder.encoder.stream(embedder.params, images()):
            progress.update()
            yield Row(*waiting.popleft(), z_D, reason)

    try:
        with Progress(unit="image", desc="embedding") as progress:
            for part, of_part in itertools.groupby(rows(), key=lambda row: row.part):
                counts = _write(pool, embedder, output, part, list(of_part))
                good, bad = good + counts[0], bad + counts[1]
                progress.set_postfix_str(f"{bad:,} bad", refresh=False)
    except DiskError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    return good, bad


def _left(pool: Pool, output: Output, share: Share) -> Iterator[Entry]:
    """The images of the share's parts that are not done. Shards are divided among processes; if there are fewer shards
    than processes, the parts of each are."""
    shards = len(pool.table.shards)
    by_shard = shards >= share.count

    def wanted(part: Part) -> bool:
        preemption.check()  # the rows of parts that are done are only counted
        mine = by_shard or (part.shard + part.number) % share.count == share.index
        return mine and not output.is_done(part)

    for shard in range(share.index, shards, share.count) if by_shard else range(shards):
        if not output.is_finished(shard):
            yield from pool.entries(shard, wanted)


def _write(pool: Pool, embedder: Embedder, output: Output, part: Part, rows: Sequence[Row]) -> tuple[int, int]:
    """Writes a part, with the embeddings of its captions; returns the numbers of images and of bad rows."""
    good = [row for row in rows if not row.reason]
    bad = [{"name": row.name, "reason": row.reason} for row in rows if row.reason]
    metadata = {"image_path": [row.name for row in good]}
    arrays = {"img_emb": np.array([row.z_D for row in good], embedder.dtype)}
    if pool.captioned:
        metadata["caption"] = [row.caption for row in good]
        arrays["text_emb"] = _texts(embedder, metadata["caption"]).astype(embedder.dtype)
    output.write(part, metadata, arrays, bad)
    return len(good), len(bad)


def _texts(embedder: Embedder, captions: Sequence[str]) -> np.ndarray:
    """Embeddings [I, D] of the captions; zeros where there is none, so that readers find as many rows as images."""
    ztxt_ID = np.zeros((len(captions), embedder.encoder.model.config.embed_dim), np.float32)
    with_text = [n for n, caption in enumerate(captions) if caption]
    ztxt_ID[with_text] = embedder.encoder.captions(embedder.params, [captions[n] for n in with_text])
    return ztxt_ID
