"""Embeds a pool of images, and their captions, part by part. Each part is written once.

Shape letters: I images of a part, D embedding.
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators.embed import Encoder
from naturel_jax.evaluators.pool.files import Output
from naturel_jax.evaluators.pool.images import DiskError, Entry, Part, Pool
from naturel_jax.models.two_tower import Params
from tfds_naturel.common.progress import Progress


class Embeddings(NamedTuple):
    """What embeds: ``dtype`` is that of the files."""

    encoder: Encoder
    params: Params
    dtype: str


def embed(pool: Pool, embeddings: Embeddings, output: Output, share: Share) -> tuple[int, int]:
    """Embeds the parts of ``share`` that are not done; returns the numbers of images and of bad rows among them.

    Raises OSError for a disk that fails, Stopped, and what storage raises.
    """
    waiting = collections.deque[Entry]()
    good = bad = 0

    def images() -> Iterator[Image]:
        for entry in _left(pool, output, share):
            waiting.append(entry)
            yield entry.image

    results = embeddings.encoder.stream(embeddings.params, images())
    rows = ((waiting.popleft(), z_D, reason) for z_D, reason in results)
    try:
        with Progress(unit="image", desc="embedding") as progress:
            for part, of_part in itertools.groupby(rows, key=lambda row: row[0].part):
                counts = _write(pool, embeddings, output, part, list(_counted(of_part, progress)))
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
        mine = by_shard or (part.shard + part.number) % share.count == share.index
        return mine and not output.is_done(part)

    for shard in range(share.index, shards, share.count) if by_shard else range(shards):
        if not output.is_finished(shard):
            yield from pool.entries(shard, wanted)


Row = tuple[Entry, np.ndarray, str]  # an image, its embedding [D], and why it cannot be read, if so


def _counted(rows: Iterator[Row], progress: Progress) -> Iterator[Row]:
    for row in rows:
        progress.update()
        yield row


def _write(pool: Pool, embeddings: Embeddings, output: Output, part: Part, rows: Sequence[Row]) -> tuple[int, int]:
    """Writes a part, with the embeddings of its captions; returns the numbers of images and of bad rows."""
    good = [(entry, z_D) for entry, z_D, reason in rows if not reason]
    bad = [{"name": entry.image.key, "reason": reason} for entry, _, reason in rows if reason]
    metadata = {"image_path": [entry.image.key for entry, _ in good]}
    arrays = {"img_emb": np.array([z_D for _, z_D in good], embeddings.dtype)}
    if pool.captioned:
        metadata["caption"] = [entry.caption for entry, _ in good]
        arrays["text_emb"] = _texts(embeddings, metadata["caption"]).astype(embeddings.dtype)
    output.write(part, metadata, arrays, bad)
    return len(good), len(bad)


def _texts(embeddings: Embeddings, captions: Sequence[str]) -> np.ndarray:
    """Embeddings [I, D] of the captions; zeros where there is none, so that readers find as many rows as images."""
    ztxt_ID = np.zeros((len(captions), embeddings.encoder.model.config.embed_dim), np.float32)
    with_text = [n for n, caption in enumerate(captions) if caption]
    ztxt_ID[with_text] = embeddings.encoder.captions(embeddings.params, [captions[n] for n in with_text])
    return ztxt_ID
