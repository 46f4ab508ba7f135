"""From plans to batches on the mesh: Grain reads and augments this process's images ahead of the step."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh, NamedSharding

from naturel_jax.config import Config
from naturel_jax.data.batches import patches
from naturel_jax.data.batches.buffers import Buffers
from naturel_jax.data.batches.planner import Part, Planner, Row, Rows
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.batches.resident import Layout, Slots, estimated_shape, lay_out, load, make_gather
from naturel_jax.data.images.augment import Blank, Crops, Encoded
from naturel_jax.data.images.boxes import random_boxes
from naturel_jax.data.images.on_device import make_resize
from naturel_jax.data.items.decoded import Decoded, Kept, largest_box
from naturel_jax.data.items.embedded import EmbeddedCaptions
from naturel_jax.data.items.items import Items, Source
from naturel_jax.data.random.draws import AUGMENT, Draws
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import batch_sharding, batch_shards
from naturel_jax.losses.batch import Batch
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.storage import staging
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining

_LOOKED_AT = 8  # batches of a run, for the largest


class LocalBatch(NamedTuple):
    """A batch as held by this process: all tokens and labels, but only the images of ``rows`` [R], ascending.

    If the devices resize them, images are crops, and ``sides`` int32 [R, 3]: see ``on_device.make_resize``. If they
    also hold them, images are the ``Slots`` of all rows. If captions are embedded, only those of ``caption_rows``,
    ascending, are held."""

    rows: np.ndarray
    batch: Batch
    sides: np.ndarray | None = None
    caption_rows: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches of ``planner`` as global arrays sharded over their leading axis by ``sharding``.

    ``sources``: one for each part of the planner. ``crops``: what is made of random boxes (``boxes.random_boxes``) of
    their images; if ``on_device``, by the devices, for which all sources must be decoded; if ``resident``, of decoded
    images that the devices hold from the first batch on (``resident.py``). ``image_dim`` and ``caption_dim``: of the
    embeddings that take the images' and the tokens' place, for which those of all sources must be embedded.
    ``kept_patches``: patches of an image, and how many of them a step keeps; None: all (``data/patches.py``).
    ``threads`` and ``workers`` (processes; 0: none) read ahead; neither affects the batches.
    """

    planner: Planner
    sources: Sequence[Source]
    crops: Crops
    sharding: NamedSharding
    threads: int = 2
    workers: int = 0
    on_device: bool = False
    resident: bool = False
    image_dim: int | None = None
    caption_dim: int | None = None
    kept_patches: tuple[int, int] | None = None

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps ``start`` to ``stop - 1``."""
        return map(self._to_global, self.local_batches(start, stop))

    def local_batches(self, start: int, stop: int) -> Iterator[LocalBatch]:
        """The same before they are placed on the devices: what the host computes."""
        if start >= stop:
            return
        dataset = grain.MapDataset.range(stop).map(self._loader())[start:]
        dataset = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * self.threads)
        )
        if self.workers:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        yield from dataset

    def _loader(self) -> Callable[[int], LocalBatch]:
        draw = functools.partial(patches.draw, self.planner.seed, *self.kept_patches) if self.kept_patches else None
        return _Load(self.planner, self._image_loader(), self._caption_loader(), draw, self._local_blocks())

    def _image_loader(self) -> "_LoadPixels | _LoadEmbedded | _LoadSlots":
        if self.image_dim:
            if missing := [source.items.name for source in self.sources if not source.embedded]:
                raise ValueError(f"{missing} are not embedded: see frozen.embed_sources")
            return _LoadEmbedded(self.planner.seed, self.sources, self.image_dim)
        if self.resident:
            return _LoadSlots(self.planner.seed, self._layout, self.crops.scale)
        shape = self._largest_crop() if self.on_device else (self.crops.size, self.crops.size)
        return _LoadPixels(self.planner.seed, self.sources, self.crops, shape, self.on_device, Buffers())

    def _caption_loader(self) -> "_LoadCaptions | None":
        if not self.caption_dim:
            return None
        embedded = [source.embedded_captions for source in self.sources if source.embedded_captions]
        if len(embedded) < len(self.sources):
            raise ValueError("captions are not embedded: see frozen.embed_sources")
        ends = np.cumsum([0, *(len(source.items.texts) for source in self.sources)])
        return _LoadCaptions(embedded, ends[:-1], self.caption_dim)

    def shapes(self, step: int) -> Batch:
        """Batch ``step`` as ``jax.ShapeDtypeStruct``; no image is read."""
        plan, size = self.planner.plan(step), self.crops.size
        images = jax.ShapeDtypeStruct((len(plan.rows), size, size, 3), np.uint8)
        if self.image_dim:
            images = jax.ShapeDtypeStruct((len(plan.rows), self.image_dim), np.float32)
        captions = jax.ShapeDtypeStruct(plan.tokens.shape, plan.tokens.dtype)
        if self.caption_dim:
            captions = jax.ShapeDtypeStruct((len(plan.tokens), self.caption_dim), np.float32)
        patches_IP = None
        if self.kept_patches:
            patches_IP = jax.ShapeDtypeStruct((len(plan.rows), self.kept_patches[1]), np.int32)
        batch = Batch(images, captions, plan.image_labels, plan.caption_labels, patches_IP)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), batch)

    def largest_shapes(self, steps: int) -> Batch:
        """``shapes`` of the largest of a few batches from a run of ``steps``: captions of others may be longer, or
        more of them distinct."""
        looked_at = {step * steps // _LOOKED_AT for step in range(_LOOKED_AT)}
        return max(map(self.shapes, sorted(looked_at)), key=lambda batch: math.prod(batch.captions_to_embed))

    def sent(self, step: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Crops and their sides, which devices that resize them hold besides batch ``step``; of sources that are not
        decoded yet, at their largest. Devices that hold all images make and receive about twice as many as a batch
        has. Nothing if the host resizes."""
        if not self.on_device:
            return ()
        boxes = [source.decoded.largest_box if source.decoded else largest_box(self.crops) for source in self.sources]
        height, width = np.max(boxes, axis=0).tolist()
        rows = len(self.planner.plan(step).rows)
        shapes = [((rows, height, width, 3), np.uint8), ((rows, 3), np.int32)]
        if self.resident:
            shapes = 2 * [*shapes, *2 * [((rows, self.crops.size, self.crops.size, 3), np.uint8)]]
        return tuple(jax.ShapeDtypeStruct(shape, dtype, sharding=self.sharding) for shape, dtype in shapes)

    def dataset(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The decoded images, if the devices hold them; of sources that are not decoded yet, an estimate."""
        if not self.resident:
            return ()
        is_known, shards = all(source.decoded for source in self.sources), self.planner.shards
        shape = self._layout.shape if is_known else estimated_shape(self.sources, self.crops, shards)
        return (jax.ShapeDtypeStruct(shape, np.uint8, sharding=self.sharding),)

    def _decoded(self) -> list[Decoded]:
        """The images of the sources. Raises ValueError for sources that are not decoded."""
        if missing := [source.items.name for source in self.sources if not source.decoded]:
            raise ValueError(f"{missing} are not decoded, so devices cannot crop them: see datasets.decode_sources")
        return [source.decoded for source in self.sources if source.decoded]

    def _largest_crop(self) -> tuple[int, int]:
        """Height and width that every crop is within."""
        heights, widths = zip(*(images.largest_box for images in self._decoded()), strict=True)
        return max(heights), max(widths)

    @functools.cached_property
    def _layout(self) -> Layout:
        return lay_out(self._decoded(), self.planner.shards)

    @functools.cached_property
    def _gather(self) -> Callable[..., jax.Array]:
        lines = load(self._layout, self.sources, self.sharding)
        return functools.partial(make_gather(self._layout, self.crops.size, self.sharding), lines)

    @functools.cached_property
    def _resize(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return make_resize(self.crops.size, self.sharding)

    def _local_blocks(self) -> tuple[int, ...]:
        """The blocks of rows that this process's devices hold."""
        shards = self.planner.shards
        spans = [index[0] for index in self.sharding.addressable_devices_indices_map((shards,)).values() if index]
        return tuple(sorted({block for span in spans for block in range(*span.indices(shards))}))

    def _to_global(self, local: LocalBatch) -> Batch:
        _, tokens, image_labels, caption_labels, patches_RP = local.batch
        rows, total = local.rows, len(image_labels.mult_I)

        def place_rows(of_rows: np.ndarray, rows: np.ndarray, total: int) -> jax.Array:
            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                start, stop, _ = index[0].indices(total) if index else (0, total, 1)
                first = np.searchsorted(rows, start)
                return of_rows[first : first + stop - start]

            return jax.make_array_from_callback((total, *of_rows.shape[1:]), self.sharding, part)

        def place(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(array.shape, self.sharding, array.__getitem__)

        def placed_images() -> jax.Array:
            if isinstance(local.batch.images, Slots):
                return self._gather(*map(place, local.batch.images))
            images = place_rows(local.batch.images, rows, total)
            return images if local.sides is None else self._resize(images, place_rows(local.sides, rows, total))

        if local.caption_rows is None:
            captions = place(tokens)
        else:
            captions = place_rows(tokens, local.caption_rows, len(caption_labels.mult_U))
        image_labels, caption_labels = jax.tree.map(place, (image_labels, caption_labels))
        patches_IP = None if patches_RP is None else place_rows(patches_RP, rows, total)
        return Batch(placed_images(), captions, image_labels, caption_labels, patches_IP)


@dataclasses.dataclass(frozen=True)
class _Load:
    """step -> LocalBatch; runs in the reading threads and processes. ``captions``: None if tokens are not replaced;
    ``draw_patches``: (rows, step) -> the patches that are kept, None if all are."""

    planner: Planner
    images: "_LoadPixels | _LoadEmbedded | _LoadSlots"
    captions: "_LoadCaptions | None"
    draw_patches: Callable[[list[Row], int], np.ndarray] | None
    blocks: tuple[int, ...]

    def __call__(self, step: int) -> LocalBatch:
        plan = self.planner.plan(step)
        local, tokens, caption_rows = self._local_rows(len(plan.rows)), plan.tokens, None
        if self.captions:
            caption_rows = self._local_rows(len(tokens))
            tokens = self.captions(plan.number_U[caption_rows])
        images, sides = self.images(plan.rows, local)
        patches_RP = self.draw_patches(plan.rows.at(local), step) if self.draw_patches else None
        batch = Batch(images, tokens, plan.image_labels, plan.caption_labels, patches_RP)
        return LocalBatch(local, batch, sides, caption_rows)

    def _local_rows(self, total: int) -> np.ndarray:
        """The rows of this process's blocks."""
        length = total // self.planner.shards
        return np.concatenate([np.arange(block * length, (block + 1) * length) for block in self.blocks])


@dataclasses.dataclass(frozen=True)
class _LoadPixels:
    """Some rows of a batch -> images, and their sides if the devices resize them (``LocalBatch``). ``shape``: height
    and width of an image."""

    seed: int
    sources: Sequence[Source]
    crops: Crops
    shape: tuple[int, int]
    on_device: bool
    buffers: Buffers

    def __call__(self, batch: Rows, local: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        rows = batch.at(local)
        opened = [self._open(row) for row in rows]
        width_R, height_R = np.array([image[:2] for image in opened]).T
        draws = Draws(self.seed, AUGMENT, batch.sample_I[local])
        boxes = random_boxes(width_R, height_R, batch.mirror_I[local].astype(bool), self.crops.scale, draws)
        images = self.buffers.array((len(rows), *self.shape, 3))
        if self.on_device:
            sides = np.empty((len(rows), 3), np.int32)
            for n, (image, box) in enumerate(zip(opened, boxes.each(), strict=True)):
                assert not isinstance(image, Encoded)  # ``_largest_crop`` has checked it
                sides[n] = image.copy(box, images[n])
            return images, sides
        for row, image, box, out in zip(rows, opened, boxes.each(), images, strict=True):
            try:
                image.fill(box, out, self.crops.shrink_by)
            except (ValueError, OSError) as error:
                raise self._naming(row, error) from error
        return images, None

    def _open(self, row: Row) -> Encoded | Kept | Blank:
        if row.source < 0:
            return Blank()
        source = self.sources[row.source]
        try:
            return source.decoded[row.item] if source.decoded else Encoded.of(source.read_image(row.item))
        except (ValueError, OSError) as error:
            raise self._naming(row, error) from error

    def _naming(self, row: Row, error: Exception) -> UserError:
        """The error, which may be of an image that was damaged or removed since it was checked, with its name."""
        items = self.sources[row.source].items
        return UserError(f"{items.name}, image {items.image_ids[row.item]!r}: {error}")


@dataclasses.dataclass(frozen=True)
class _LoadSlots:
    """All rows of a batch -> what devices make of the images that they hold; none is read."""

    seed: int
    layout: Layout
    scale: tuple[float, float]

    def __call__(self, batch: Rows, local: np.ndarray) -> tuple[Slots, None]:
        numbers_I = self.layout.numbers(batch.source_I, batch.item_I)
        draws = Draws(self.seed, AUGMENT, batch.sample_I)
        boxes = random_boxes(*self.layout.sides(numbers_I), batch.mirror_I.astype(bool), self.scale, draws)
        return self.layout.slots(numbers_I, boxes), None


@dataclasses.dataclass(frozen=True)
class _LoadEmbedded:
    """Some rows of a batch -> embeddings of ``dim`` in place of images, mirrored where those would be."""

    seed: int
    sources: Sequence[Source]
    dim: int

    def __call__(self, batch: Rows, local: np.ndarray) -> tuple[np.ndarray, None]:
        draws, sides_R = Draws(self.seed, AUGMENT, batch.sample_I[local]), np.ones(len(local), np.int64)
        boxes = random_boxes(sides_R, sides_R, batch.mirror_I[local].astype(bool), (1.0, 1.0), draws)
        zimg_RD = np.empty((len(local), self.dim), np.float32)
        for row, mirrored, out in zip(batch.at(local), boxes.mirrored_B.tolist(), zimg_RD, strict=True):
            embedded = self.sources[row.source].embedded
            assert embedded  # ``_image_loader`` has checked it
            out[:] = embedded.blank_D if row.source < 0 else embedded.at(row.item, mirrored)
        return zimg_RD, None


@dataclasses.dataclass(frozen=True)
class _LoadCaptions:
    """Numbers of texts (``Plan``) -> their embeddings of ``dim``. ``first_S``: number of the first text of each
    source."""

    embedded: Sequence[EmbeddedCaptions]
    first_S: np.ndarray
    dim: int

    def __call__(self, number_R: np.ndarray) -> np.ndarray:
        source_R = np.searchsorted(self.first_S, number_R, side="right") - 1
        text_R = number_R - self.first_S[source_R]
        zcap_RD = np.empty((len(number_R), self.dim), np.float32)
        for source, text, out in zip(source_R.tolist(), text_R.tolist(), zcap_RD, strict=True):
            out[:] = self.embedded[source].at(text)
        return zcap_RD


def make_pipeline(
    config: Config, sources: Sequence[Source], model: TwoTowerConfig, processor: Processor, mesh: Mesh
) -> Pipeline:
    """The training pipeline of a run; ``sources`` are those of ``config.data.mixture``, in its order.

    Raises UserError for an unknown recipe, one that does not fit its source, an unusable file of hard images, or a
    batch size that does not divide evenly.
    """
    parts = [
        Part(
            source.items,
            recipe(part.recipe),
            part.weight,
            _hard_images(name, part.hard_images, source.items, config.data.cache_dir),
        )
        for (name, part), source in zip(config.data.mixture.items(), sources, strict=True)
    ]
    planner = Planner(
        parts,
        processor,
        batch_size=config.data.batch_size,
        shards=batch_shards(mesh),
        seed=config.seed,
        trim_eos=model.text.eos_id if model.text.causal else None,
        chunks=config.objective.chunks,
    )
    data, count = config.data, model.image.grid**2
    return Pipeline(
        planner,
        sources,
        Crops(model.image.size, data.crop_scale, data.shrink_by),
        batch_sharding(mesh),
        data.threads,
        data.workers,
        on_device=data.augment_on == "device",
        resident=data.cache == "device",
        image_dim=model.embed_dim if data.cache == "embeddings" else None,
        caption_dim=model.embed_dim if data.cache_captions else None,
        kept_patches=(count, patches.kept(count, data.patch_dropout)) if data.patch_dropout else None,
    )


def _hard_images(part: str, path: str, items: Items, cache_dir: str) -> list[tuple[int, ...]] | None:
    if not path:
        return None
    try:
        return mining.hard_images(staging.stage_file(path, cache_dir), items.image_ids)
    except (ValueError, pa.ArrowException) as error:  # pyarrow's messages do not name the file
        raise UserError(
            f"config.data.mixture.{part}.hard_images is {path!r}: {error}; expected a Parquet file written by "
            "python -m naturel_jax.mine for this split"
        ) from error
