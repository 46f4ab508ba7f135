"""Turns plans into batches on the mesh: Grain reads and augments this process's images ahead of the step.

Shape letters: I images, U distinct captions, P patches that are kept, R rows of this process.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from naturel_jax.config import Config, Data
from naturel_jax.data.batches import hard_images, patches, remined
from naturel_jax.data.batches.planner import ImageRow, MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.batches.remined import Remined
from naturel_jax.data.batches.replaced import Reads, Replaced, relabel
from naturel_jax.data.batches.stages import (
    CaptionStage,
    EmbeddedImages,
    EmbeddedTexts,
    HostCrops,
    ImageStage,
    Load,
    LoadCaptions,
    Place,
    Tokens,
)
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.images.naflex import PatchCrops
from naturel_jax.data.items.items import Items, Source
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import batch_sharding, batch_shards
from naturel_jax.losses.batch import Batch
from naturel_jax.models.two_tower import ImageConfig, TwoTowerConfig
from naturel_jax.storage import staging
from tfds_naturel.common.errors import UserError

SAMPLED_BATCHES = 8  # batches of a run among which to find a large one


class LocalBatch(NamedTuple):
    """A batch as held by this process: all labels, and in place of images and tokens, what their stages have loaded for
    the image rows ``rows`` and the caption rows ``caption_rows``, both ascending. ``read``: number of images read;
    ``replaced``: those that could not be."""

    rows: np.ndarray
    caption_rows: np.ndarray
    batch: Batch
    read: int
    replaced: list[Replaced]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches of ``planner`` as global arrays sharded over their leading axis by ``sharding``.

    ``images`` and ``captions``: the stages that make their arrays. ``kept_patches``: patches per image, and how many of
    them a step keeps; None: all (``patches.py``). ``threads`` and ``workers`` (processes; 0: none) read ahead; neither
    affects the batches. ``max_bad``: see ``replaced.Reads``. The hard images of ``planner`` are those that the run
    begins with, also for ``shapes``; ``remined`` has those that follow.
    """

    planner: Planner
    images: ImageStage
    captions: CaptionStage
    sharding: NamedSharding
    threads: int = 2
    workers: int = 0
    kept_patches: tuple[int, int] | None = None
    max_bad: float = Data.max_bad
    remined: Sequence[Remined] = ()

    def batches(self, start: int, stop: int, workdir: epath.PathLike = "") -> Iterator[Batch]:
        """Batches of steps ``start`` to ``stop - 1``. Hard images that are mined again are in ``workdir``, and waited
        for. Raises UserError if too many images cannot be read, and Stopped while it waits."""
        return map(self._to_global, self.local_batches(start, stop, workdir))

    def local_batches(self, start: int, stop: int, workdir: epath.PathLike = "") -> Iterator[LocalBatch]:
        """What the host computes: the same batches before they are placed on the devices."""
        if start >= stop:
            return
        reads = Reads(self.max_bad, sum(len(part.items) for part in self.planner.parts))
        try:
            for steps in remined.stretches(start, stop, self.remined):
                planner = self.planner.with_hard_images(remined.read(self.remined, steps.start, workdir))
                for local in dataclasses.replace(self, planner=planner)._read_ahead(steps):
                    reads.add(local.read, local.replaced)
                    yield local
        finally:
            reads.report()

    def _read_ahead(self, steps: range) -> Iterator[LocalBatch]:
        """Steps with the same hard images, which the threads and worker processes get with the planner."""
        dataset = grain.MapDataset.range(steps.stop).map(self._loader())[steps.start :]
        dataset = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * self.threads)
        )
        if self.workers:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        yield from dataset

    def shapes(self, step: int) -> Batch:
        """Batch ``step`` as ``jax.ShapeDtypeStruct``; no image is read."""
        plan = self.planner.plan(step)
        images, captions = self.images.shape(len(plan.rows)), self.captions.shape(plan.tokens)
        patches_IP = None
        if self.kept_patches:
            patches_IP = jax.ShapeDtypeStruct((len(plan.rows), self.kept_patches[1]), np.int32)
        batch = Batch(images, captions, plan.image_labels, plan.caption_labels, patches_IP)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), batch)

    def largest_shapes(self, steps: int) -> Batch:
        """``shapes`` of the largest of a few batches from a run of ``steps``: captions of others may be longer, or
        more of them distinct."""
        sampled = {step * steps // SAMPLED_BATCHES for step in range(SAMPLED_BATCHES)}
        return max(map(self.shapes, sorted(sampled)), key=lambda batch: math.prod(batch.captions_to_embed))

    def _loader(self) -> "_Load":
        draw = functools.partial(patches.draw, self.planner.seed, *self.kept_patches) if self.kept_patches else None
        return _Load(
            self.planner, self.images.loader(self.planner.seed), self.captions.loader(), draw, self._local_blocks()
        )

    def _local_blocks(self) -> tuple[int, ...]:
        """The blocks of rows that this process's devices hold."""
        shards = self.planner.shards
        spans = [index[0] for index in self.sharding.addressable_devices_indices_map((shards,)).values() if index]
        return tuple(sorted({block for span in spans for block in range(*span.indices(shards))}))

    def _to_global(self, local: LocalBatch) -> Batch:
        images, tokens, image_labels, caption_labels, patches_RP = local.batch

        def whole(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(array.shape, self.sharding, array.__getitem__)

        def place_rows(numbers: np.ndarray, total: int) -> Place:
            def place(of_rows: np.ndarray) -> jax.Array:
                def part(index: tuple[slice, ...] | None) -> np.ndarray:
                    start, stop, _ = index[0].indices(total) if index else (0, total, 1)
                    first = np.searchsorted(numbers, start)
                    return of_rows[first : first + stop - start]

                return jax.make_array_from_callback((total, *of_rows.shape[1:]), self.sharding, part)

            return place

        image_rows = place_rows(local.rows, len(image_labels.mult_I))
        caption_rows = place_rows(local.caption_rows, len(caption_labels.mult_U))
        return Batch(
            jax.tree.map(image_rows, images),
            self.captions.place(tokens, caption_rows, whole),
            jax.tree.map(whole, image_labels),
            jax.tree.map(whole, caption_labels),
            None if patches_RP is None else image_rows(patches_RP),
        )


@dataclasses.dataclass(frozen=True)
class _Load:
    """step -> LocalBatch; runs in the reading threads and processes. ``draw_patches``: (rows, step) -> the patches to
    keep, or None for all."""

    planner: Planner
    images: Load
    captions: LoadCaptions
    draw_patches: Callable[[list[ImageRow], int], np.ndarray] | None
    blocks: tuple[int, ...]

    def __call__(self, step: int) -> LocalBatch:
        plan = self.planner.plan(step)
        rows, caption_rows = self._local_rows(len(plan.rows)), self._local_rows(len(plan.tokens))
        (images, replaced), captions = self.images(plan.rows, rows), self.captions(plan, caption_rows)
        patches_RP = self.draw_patches(plan.rows.at(rows), step) if self.draw_patches else None
        labels = relabel(plan.image_labels, replaced)
        read = int(np.sum(plan.rows.source_I[rows] >= 0) + np.sum(plan.rows.joined_I[rows] >= 0))
        batch = Batch(images, captions, labels, plan.caption_labels, patches_RP)
        return LocalBatch(rows, caption_rows, batch, read, replaced)

    def _local_rows(self, total: int) -> np.ndarray:
        """The rows of this process's blocks."""
        length = total // self.planner.shards
        return np.concatenate([np.arange(block * length, (block + 1) * length) for block in self.blocks])


def make_pipeline(
    config: Config, sources: Sequence[Source], model: TwoTowerConfig, processor: Processor, mesh: Mesh
) -> Pipeline:
    """The training pipeline of a run; ``sources`` are those of ``config.data.mixture``, in its order.

    Raises UserError for an unknown recipe, one that does not fit its source, an unusable file of hard images, or a
    batch size that does not divide evenly.
    """
    parts, mined_again = list[MixturePart](), list[Remined]()
    for number, ((name, part), source) in enumerate(zip(config.data.mixture.items(), sources, strict=True)):
        read = functools.partial(_hard_images, name, items=source.items, cache_dir=config.data.cache_dir)
        mined = read(part.hard_images) if part.hard_images else None
        exchanged = part.hard_captions == "exchanged"
        parts.append(MixturePart(source.items, recipe(part.recipe), part.weight, mined, exchanged))
        if part.hard_images_every:
            mined_again.append(Remined(number, name, part.hard_images_every, read))
    planner = Planner(
        parts,
        processor,
        batch_size=config.data.batch_size,
        shards=batch_shards(mesh),
        seed=config.seed,
        trim_eos=model.text.eos_id if model.text.causal else None,
        chunks=config.objective.chunks,
        whole_batches=config.data.turns == "batches",
        mirror=config.data.mirror,
    )
    data, count = config.data, model.image.grid**2
    crops = HostCrops(sources, _crops(data, model.image, processor))
    return Pipeline(
        planner,
        EmbeddedImages(crops, model.embed_dim) if data.cache == "embeddings" else crops,
        EmbeddedTexts(sources, model.embed_dim) if data.cache_captions else Tokens(),
        batch_sharding(mesh),
        data.threads,
        data.workers,
        kept_patches=(count, patches.kept(count, data.patch_dropout)) if data.patch_dropout else None,
        max_bad=data.max_bad,
        remined=mined_again,
    )


def _crops(data: Data, image: ImageConfig, processor: Processor) -> Crops | PatchCrops:
    if not image.naflex:
        return Crops(image.size, data.crop_scale, data.shrink_by)
    assert processor.max_patches  # every NaFlex model's has them
    return PatchCrops(image.patch, processor.max_patches, data.crop_scale, data.shrink_by)


def _hard_images(part: str, path: epath.PathLike, items: Items, cache_dir: str) -> Ragged:
    try:
        mined = hard_images.read(staging.stage_file(path, cache_dir), items.image_ids)
    except ValueError as error:
        raise UserError(
            f"config.data.mixture.{part}.hard_images is {os.fspath(path)!r}: {error}; expected a Parquet file written "
            "by python -m naturel_jax.mine for this split"
        ) from error
    return mined.keep(~np.isin(mined.values, items.left_out))  # without captions of the recipe's kind they have no part
