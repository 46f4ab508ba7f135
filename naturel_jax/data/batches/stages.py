"""How the images and captions of a batch are made: what the host loads, and what the devices make of it.

Images are cropped on the host (``HostCrops``) or on the devices (``DeviceCrops``), are on the devices from the first
batch on (``ResidentImages``), or are embeddings of a frozen tower (``EmbeddedImages``). Captions are tokens
(``Tokens``) or embeddings (``EmbeddedTexts``).

Shape letters: R rows of a batch that this process holds, D embedding.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding

from naturel_jax.data.batches.buffers import Buffers
from naturel_jax.data.batches.planner import Plan, Row, Rows
from naturel_jax.data.batches.replaced import Replaced
from naturel_jax.data.batches.resident import ShardLayout, Slots, estimated_shape, lay_out, load, make_gather
from naturel_jax.data.images.augment import Blank, Crops, Encoded
from naturel_jax.data.images.boxes import Boxes, random_boxes
from naturel_jax.data.images.on_device import make_resize
from naturel_jax.data.items.decoded import Decoded, Kept, largest_box
from naturel_jax.data.items.embedded import EmbeddedCaptions
from naturel_jax.data.items.items import Source
from naturel_jax.data.random.draws import AUGMENT, Draws
from tfds_naturel.common.errors import UserError

Load = Callable[[Rows, np.ndarray], tuple[Any, list[Replaced]]]
LoadCaptions = Callable[[Plan, np.ndarray], np.ndarray]
Place = Callable[[np.ndarray], jax.Array]
Shapes = tuple[jax.ShapeDtypeStruct, ...]


class ImageStage(Protocol):
    """How the images of a batch are made."""

    def loader(self, seed: int) -> Load:
        """A function (rows of a batch, numbers of this process's rows) -> what it loads of their images, and which rows
        others stand in for. It runs in threads and other processes. Raises ValueError for sources that are not prepared
        for this stage."""
        ...

    def place(self, loaded: Any, rows: Place, whole: Place) -> jax.Array:
        """The images of the batch on the devices. ``rows`` places an array of this process's rows, ``whole`` one that
        all processes hold."""
        return rows(loaded)

    def shape(self, rows: int) -> jax.ShapeDtypeStruct:
        """The images that a step takes."""
        ...

    def crop_shapes(self, rows: int) -> Shapes:
        """What the devices hold besides the images while these are made; an upper bound if sources are not decoded."""
        return ()

    def resident_shapes(self) -> Shapes:
        """What the devices hold for the whole run; an estimate if sources are not decoded yet."""
        return ()


# ---- Images ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HostCrops(ImageStage):
    """Images of ``sources``, one for each part of the planner, that the host decodes, crops, resizes and mirrors."""

    sources: Sequence[Source]
    crops: Crops

    def loader(self, seed: int) -> Load:
        return functools.partial(_fill_crops, seed, self.sources, self.crops, Buffers())

    def shape(self, rows: int) -> jax.ShapeDtypeStruct:
        return _pixels(rows, self.crops)


@dataclasses.dataclass(frozen=True)
class DeviceCrops(ImageStage):
    """Decoded images that the host crops and the devices resize and mirror (``on_device.py``)."""

    sources: Sequence[Source]
    crops: Crops
    sharding: NamedSharding

    def loader(self, seed: int) -> Load:
        heights, widths = zip(*(images.largest_box for images in _decoded(self.sources)), strict=True)
        shape = max(heights), max(widths)
        return functools.partial(_copy_crops, seed, self.sources, self.crops, shape, Buffers())

    def place(self, loaded: tuple[np.ndarray, np.ndarray], rows: Place, whole: Place) -> jax.Array:
        crops, sides = loaded
        return self._resize(rows(crops), rows(sides))

    def shape(self, rows: int) -> jax.ShapeDtypeStruct:
        return _pixels(rows, self.crops)

    def crop_shapes(self, rows: int) -> Shapes:
        return _crop_shapes(rows, self.sources, self.crops)

    @functools.cached_property
    def _resize(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return make_resize(self.crops.size, self.sharding)


@dataclasses.dataclass(frozen=True)
class ResidentImages(ImageStage):
    """Decoded images that the devices hold from the first batch on (``resident.py``), spread over ``shards``."""

    sources: Sequence[Source]
    crops: Crops
    sharding: NamedSharding
    shards: int

    def loader(self, seed: int) -> Load:
        return functools.partial(_find_slots, seed, self.layout, self.crops.scale)

    def place(self, loaded: Slots, rows: Place, whole: Place) -> jax.Array:
        return self._gather(*map(whole, loaded))

    def shape(self, rows: int) -> jax.ShapeDtypeStruct:
        return _pixels(rows, self.crops)

    def crop_shapes(self, rows: int) -> Shapes:
        """The devices make and receive about twice as many images as a batch has."""
        return 2 * (*_crop_shapes(rows, self.sources, self.crops), *2 * [_pixels(rows, self.crops)])

    def resident_shapes(self) -> Shapes:
        is_known = all(source.decoded for source in self.sources)
        shape = self.layout.shape if is_known else estimated_shape(self.sources, self.crops, self.shards)
        return (jax.ShapeDtypeStruct(shape, np.uint8),)

    @functools.cached_property
    def layout(self) -> ShardLayout:
        """Where the images are."""
        return lay_out(_decoded(self.sources), self.shards)

    @functools.cached_property
    def _gather(self) -> Callable[..., jax.Array]:
        lines = load(self.layout, self.sources, self.sharding)
        return functools.partial(make_gather(self.layout, self.crops.size, self.sharding), lines)


@dataclasses.dataclass(frozen=True)
class EmbeddedImages(ImageStage):
    """Embeddings [R, ``dim``] of a frozen tower in place of ``pixels``, mirrored where those would be."""

    pixels: HostCrops
    dim: int

    def loader(self, seed: int) -> Load:
        sources = self.pixels.sources
        if missing := [source.items.name for source in sources if not source.embedded]:
            raise ValueError(f"{missing} are not embedded: see frozen.embed_sources")
        return functools.partial(_read_embeddings, seed, sources, self.dim)

    def shape(self, rows: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, self.dim), np.float32)


def _pixels(rows: int, crops: Crops) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, crops.size, crops.size, 3), np.uint8)


def _crop_shapes(rows: int, sources: Sequence[Source], crops: Crops) -> Shapes:
    """Crops before they are resized, and their sides."""
    boxes = [source.decoded.largest_box if source.decoded else largest_box(crops) for source in sources]
    height, width = np.max(boxes, axis=0).tolist()
    return jax.ShapeDtypeStruct((rows, height, width, 3), np.uint8), jax.ShapeDtypeStruct((rows, 3), np.int32)


def _decoded(sources: Sequence[Source]) -> list[Decoded]:
    """The decoded images of the sources. Raises ValueError for sources that are not decoded."""
    if missing := [source.items.name for source in sources if not source.decoded]:
        raise ValueError(f"{missing} are not decoded, so devices cannot crop them: see datasets.decode_sources")
    return [source.decoded for source in sources if source.decoded]


# ---- In the reading threads and processes ---------------------------------------------------------------------------


def _fill_crops(
    seed: int, sources: Sequence[Source], crops: Crops, buffers: Buffers, batch: Rows, local: np.ndarray
) -> tuple[np.ndarray, list[Replaced]]:
    """Images uint8 [R, size, size, 3]. Raises UserError if no image of the batch can be read."""
    images, replaced = buffers.array((len(local), crops.size, crops.size, 3)), []
    for n, error in _fill(seed, sources, crops, batch.at(local), images).items():
        at = int(local[n])
        row = batch[at]
        for other in _others(batch, at):
            stand_in = batch[other]._replace(sample=row.sample)
            if not _fill(seed, sources, crops, [stand_in], images[n : n + 1]):
                name = f"{sources[row.source].items.name}/{sources[row.source].items.image_ids[row.item]}"
                replaced.append(Replaced(at, other, name, str(error)))
                break
        else:
            raise error
    return images, replaced


def _fill(
    seed: int, sources: Sequence[Source], crops: Crops, rows: Sequence[Row], images: np.ndarray
) -> dict[int, UserError]:
    """Fills ``images``, uint8 [R, size, size, 3], with random crops of these rows. Returns the numbers of those that
    are missing or broken, and why; they are left undefined."""
    opened, failed = list[Encoded | Kept | Blank](), dict[int, UserError]()
    for n, row in enumerate(rows):
        try:
            opened.append(_open(sources, row))
        except _Broken as error:
            opened.append(Blank())
            failed[n] = error
    for n, (image, box, out) in enumerate(zip(opened, _boxes(seed, rows, opened, crops).each(), images, strict=True)):
        try:
            image.fill(box, out, crops.shrink_by)
        except (ValueError, OSError) as error:
            failed[n] = _with_name(sources, rows[n], error)
    return failed


def _others(batch: Rows, at: int) -> Iterator[int]:
    """The other rows of a batch that hold an image, beginning with the next one."""
    numbers = np.flatnonzero(batch.source_I >= 0)
    after = int(np.searchsorted(numbers, at))
    yield from (n for n in np.roll(numbers, -after).tolist() if n != at)


def _copy_crops(
    seed: int,
    sources: Sequence[Source],
    crops: Crops,
    shape: tuple[int, int],
    buffers: Buffers,
    batch: Rows,
    local: np.ndarray,
) -> tuple[tuple[np.ndarray, np.ndarray], list[Replaced]]:
    """Crops uint8 [R, *shape, 3], large enough for every crop, and their sides int32 [R, 3]: see
    ``on_device.make_resize``."""
    rows = batch.at(local)
    opened = [_open(sources, row) for row in rows]
    images, sides = buffers.array((len(rows), *shape, 3)), np.empty((len(rows), 3), np.int32)
    for n, (image, box) in enumerate(zip(opened, _boxes(seed, rows, opened, crops).each(), strict=True)):
        assert not isinstance(image, Encoded)  # the stage has checked it
        sides[n] = image.copy(box, images[n])
    return (images, sides), []


def _find_slots(
    seed: int, layout: ShardLayout, scale: tuple[float, float], batch: Rows, local: np.ndarray
) -> tuple[Slots, list[Replaced]]:
    """The slots for all rows; no image is read."""
    numbers_I = layout.numbers(batch.source_I, batch.item_I)
    draws = Draws(seed, AUGMENT, batch.sample_I)
    boxes = random_boxes(*layout.sides(numbers_I), batch.mirror_I.astype(bool), scale, draws)
    return layout.slots(numbers_I, boxes), []


def _read_embeddings(
    seed: int, sources: Sequence[Source], dim: int, batch: Rows, local: np.ndarray
) -> tuple[np.ndarray, list[Replaced]]:
    """Embeddings float32 [R, dim]."""
    draws, sides_R = Draws(seed, AUGMENT, batch.sample_I[local]), np.ones(len(local), np.int64)
    boxes = random_boxes(sides_R, sides_R, batch.mirror_I[local].astype(bool), (1.0, 1.0), draws)
    zimg_RD = np.empty((len(local), dim), np.float32)
    for row, mirrored, out in zip(batch.at(local), boxes.mirrored_B.tolist(), zimg_RD, strict=True):
        embedded = sources[row.source].embedded
        assert embedded  # the stage has checked it
        out[:] = embedded.blank_D if row.source < 0 else embedded.at(row.item, mirrored)
    return zimg_RD, []


def _boxes(seed: int, rows: Sequence[Row], opened: Sequence[Encoded | Kept | Blank], crops: Crops) -> Boxes:
    """A random box in the image of each row."""
    width_R, height_R = np.array([image[:2] for image in opened]).T
    sample_R, mirror_R = np.array([row.sample for row in rows]), np.array([row.mirror for row in rows], bool)
    return random_boxes(width_R, height_R, mirror_R, crops.scale, Draws(seed, AUGMENT, sample_R))


class _Broken(UserError):
    """An image that is missing or not an image; of other errors of a disk, an image says nothing."""


def _open(sources: Sequence[Source], row: Row) -> Encoded | Kept | Blank:
    """The image of a row. Raises _Broken, and UserError if the disk failed."""
    if row.source < 0:
        return Blank()
    source = sources[row.source]
    try:
        return source.decoded[row.item] if source.decoded else Encoded.of(source.read_image(row.item))
    except (ValueError, OSError) as error:
        raise _with_name(sources, row, error) from error


def _with_name(sources: Sequence[Source], row: Row, error: Exception) -> UserError:
    """The error with the image's name: it may have been damaged or removed since it was checked."""
    items = sources[row.source].items
    is_broken = isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | IsADirectoryError)
    return (_Broken if is_broken else UserError)(f"{items.name}, image {items.image_ids[row.item]!r}: {error}")


# ---- Captions --------------------------------------------------------------------------------------------------------


class Tokens:
    """Tokens int32 [U, L], which every process holds."""

    def loader(self) -> LoadCaptions:
        """A function (plan, numbers of this process's captions) -> what it loads of them."""
        return _all_tokens

    def place(self, loaded: np.ndarray, rows: Place, whole: Place) -> jax.Array:
        """Same as ``ImageStage.place``."""
        return whole(loaded)

    def shape(self, tokens: np.ndarray) -> jax.ShapeDtypeStruct:
        """What a step takes for these tokens."""
        return jax.ShapeDtypeStruct(tokens.shape, tokens.dtype)


@dataclasses.dataclass(frozen=True)
class EmbeddedTexts:
    """Embeddings [R, ``dim``] of a frozen tower, in place of tokens. ``sources``: one for each part of the planner."""

    sources: Sequence[Source]
    dim: int

    def loader(self) -> LoadCaptions:
        """Same as ``Tokens.loader``. Raises ValueError for sources whose captions are not embedded."""
        embedded = [source.embedded_captions for source in self.sources if source.embedded_captions]
        if len(embedded) < len(self.sources):
            raise ValueError("captions are not embedded: see frozen.embed_sources")
        ends = np.cumsum([0, *(len(source.items.texts) for source in self.sources)])
        return functools.partial(_read_captions, embedded, ends[:-1], self.dim)

    def place(self, loaded: np.ndarray, rows: Place, whole: Place) -> jax.Array:
        """Same as ``ImageStage.place``."""
        return rows(loaded)

    def shape(self, tokens: np.ndarray) -> jax.ShapeDtypeStruct:
        """What a step takes in place of these tokens."""
        return jax.ShapeDtypeStruct((len(tokens), self.dim), np.float32)


CaptionStage = Tokens | EmbeddedTexts


def _all_tokens(plan: Plan, local: np.ndarray) -> np.ndarray:
    return plan.tokens


def _read_captions(
    embedded: Sequence[EmbeddedCaptions], first_S: np.ndarray, dim: int, plan: Plan, local: np.ndarray
) -> np.ndarray:
    """Embeddings float32 [R, dim]. ``first_S``: number of the first text of each source."""
    number_R = plan.number_U[local]
    source_R = np.searchsorted(first_S, number_R, side="right") - 1
    text_R = number_R - first_S[source_R]
    zcap_RD = np.empty((len(number_R), dim), np.float32)
    for source, text, out in zip(source_R.tolist(), text_R.tolist(), zcap_RD, strict=True):
        out[:] = embedded[source].at(text)
    return zcap_RD
