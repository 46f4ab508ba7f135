"""From plans to batches on the mesh: Grain reads and augments this process's pictures ahead of the step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from naturel_jax.batch import Batch
from naturel_jax.data.augment import Augment
from naturel_jax.data.items import Source
from naturel_jax.data.planner import AUGMENT, Planner, Row, generator

_WHITE = 255  # the sentinel is a white picture


class _Local(NamedTuple):
    """A batch as this process holds it: pixels of its own rows only, in ascending row order."""

    images: np.ndarray
    rows: np.ndarray
    batch: Batch


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches of ``planner`` as global arrays sharded over their leading axis by ``sharding``.

    ``sources``: one per part of the planner. ``threads`` and ``workers`` (processes; 0: none) read ahead; neither
    changes a batch.
    """

    planner: Planner
    sources: Sequence[Source]
    augment: Augment
    sharding: NamedSharding
    threads: int = 2
    workers: int = 0

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps ``start`` to ``stop - 1``."""
        if start >= stop:
            return
        dataset = grain.MapDataset.range(stop).map(_Load(self.planner, self.sources, self.augment, self._owned()))[
            start:
        ]
        dataset = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * self.threads)
        )
        if self.workers:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        for local in dataset:
            yield self._place(local)

    def _owned(self) -> tuple[int, ...]:
        """The blocks of rows that this process's devices hold."""
        shards = self.planner.shards
        spans = self.sharding.addressable_devices_indices_map((shards,)).values()
        return tuple(sorted({block for span in spans for block in range(*span[0].indices(shards))}))

    def _place(self, local: _Local) -> Batch:
        def pixels(index):
            start, stop, _ = index[0].indices(len(local.batch.image_labels.mult_I))
            first = np.searchsorted(local.rows, start)
            return local.images[first : first + stop - start]

        shape = (len(local.batch.image_labels.mult_I), *local.images.shape[1:])
        images = jax.make_array_from_callback(shape, self.sharding, pixels)

        def place(array):
            return jax.make_array_from_callback(array.shape, self.sharding, lambda index: array[index])

        return jax.tree.map(place, local.batch._replace(images=None))._replace(images=images)


@dataclasses.dataclass(frozen=True)
class _Load:
    """step -> _Local; what the reading threads and processes run."""

    planner: Planner
    sources: Sequence[Source]
    augment: Augment
    owned: tuple[int, ...]

    def __call__(self, step: int) -> _Local:
        plan = self.planner.plan(step)
        block = len(plan.rows) // self.planner.shards
        rows = np.concatenate([np.arange(b * block, (b + 1) * block) for b in self.owned])
        images = np.empty((len(rows), self.augment.size, self.augment.size, 3), np.uint8)
        for image, row in zip(images, rows, strict=True):
            self._draw(plan.rows[row], image)
        return _Local(images, rows, Batch(None, plan.tokens, plan.image_labels, plan.caption_labels))

    def _draw(self, row: Row, image: np.ndarray) -> None:
        if row.source < 0:
            image.fill(_WHITE)
            return
        source = self.sources[row.source]
        try:
            rng = generator(self.planner.seed, AUGMENT, row.draw)
            self.augment(source.picture(row.item), row.mirror, rng, image)
        except ValueError as error:
            raise ValueError(f"{source.items.name}, image {source.items.image_ids[row.item]!r}: {error}") from error
