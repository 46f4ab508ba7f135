"""A slice of a split, as TFDS writes it: ``train[:1000]``, ``train[10%:]``."""

import dataclasses

import numpy as np

from naturel_jax.data.items.items import Source
from tfds_naturel.common.errors import UserError


def whole(split: str) -> str:
    """The split of which ``split`` is a slice, or ``split`` itself."""
    return split.partition("[")[0]


def bounds(source: str, split: str, records: int) -> tuple[int, int]:
    """The first record of ``source`` in ``split``, which may be a slice, and the one after its last. Numbers and
    percentages count all of its ``records``, in their order on disk, bad ones too. Raises UserError for a slice that
    TFDS does not read, or that the split is too small for."""
    from tensorflow_datasets.core import splits  # slow to import

    name = whole(split)
    try:
        if "shard" in split.removeprefix(name):
            raise ValueError("shards are not counted")
        info = splits.SplitInfo(name=name, shard_lengths=[records], num_bytes=0)
        part, *others = splits.ReadInstruction.from_spec(split).to_absolute({name: info})
        if others:
            raise ValueError("it is more than one slice")
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"config.data.mixture: {source}, split {split!r}: {' '.join(str(error).split()):.200}; expected one "
            f"slice of its {records:,} records, such as {name}[:1000] or {name}[10%:]"
        ) from error
    return part.from_ or 0, records if part.to is None else part.to


def take(source: Source, split: str) -> Source:
    """``source``, of which only the images in the slice ``split`` are trained on. Raises UserError as ``bounds`` does,
    and for a slice without any image."""
    items, origin = source.items, source.origin
    records = len(items.image_ids)
    first, stop = bounds(items.name, split, records)
    outside = np.r_[:first, stop:records]
    sliced = dataclasses.replace(items, left_out=np.union1d(items.left_out, outside).astype(np.int64))
    if not len(sliced):
        raise UserError(f"config.data.mixture: {items.name}, split {split!r}: none of its images is trained on")
    return dataclasses.replace(
        source,
        items=sliced,
        content=source.content and f"{source.content} {first}:{stop}",
        # What is known about images depends on which are trained on.
        origin=dataclasses.replace(origin, cache=origin.cache and f"{origin.cache}_{first}_{stop}"),
    )
