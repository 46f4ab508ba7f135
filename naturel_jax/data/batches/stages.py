"""How the images and captions of a batch are made: what the host loads, and what the devices make of it.

Images are cropped on the host (``HostCrops``), or are embeddings of a frozen tower (``EmbeddedImages``). Captions are
tokens (``Tokens``) or embeddings (``EmbeddedTexts``).

Shape letters: I images, B boxes, U distinct captions, S sources, R rows of a batch that this process holds, D
embedding.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from naturel_jax.data.batches.buffers import Buffers
from naturel_jax.data.batches.planner import ImageRow, ImageRows, Plan
from naturel_jax.data.batches.replaced import Replaced
from naturel_jax.data.images.augment import Blank, Crops, Encoded, Opened, join
from naturel_jax.data.images.boxes import Boxes, random_boxes
from naturel_jax.data.images.naflex import PatchCrops
from naturel_jax.data.items.embedded import EmbeddedCaptions
from naturel_jax.data.items.items import Source
from naturel_jax.data.random.draws import AUGMENT, Draws
from naturel_jax.models.naflex import Patches
from tfds_naturel.common.errors import UserError

Images = np.ndarray | Patches
Load = Callable[[ImageRows, np.ndarray], tuple[Images, list[Replaced]]]
LoadCaptions = Callable[[Plan, np.ndarray], np.ndarray]
Place = Callable[[np.ndarray], jax.Array]


class ImageStage(Protocol):
    """How the images of a batch are made."""

    def loader(self, seed: int) -> Load:
        """A function (rows of a batch, numbers of this process's rows) -> what it loads of their images, and which rows
        others stand in for. It runs in threads and other processes. Raises ValueError for sources that are not prepared
        for this stage."""
        ...

    def shape(self, rows: int) -> Any:
        """The images that a step takes: arrays or ``jax.ShapeDtypeStruct``."""
        ...


# ---- Images ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HostCrops(ImageStage):
    """Images of ``sources``, one for each part of the planner, that the host decodes, crops, resizes and mirrors; for a
    NaFlex model, it also cuts them into patches."""

    sources: Sequence[Source]
    crops: Crops | PatchCrops

    def loader(self, seed: int) -> Load:
        return functools.partial(_fill_crops, seed, self.sources, self.crops, Buffers())

    def shape(self, rows: int) -> Any:
        return self.crops.empty(rows, functools.partial(jax.ShapeDtypeStruct, dtype=np.uint8))


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


# ---- In the reading threads and processes ---------------------------------------------------------------------------


def _fill_crops(
    seed: int,
    sources: Sequence[Source],
    crops: Crops | PatchCrops,
    buffers: Buffers,
    batch: ImageRows,
    local: np.ndarray,
) -> tuple[Images, list[Replaced]]:
    """uint8 images. Raises UserError if no image of the batch can be read."""
    images, replaced = crops.empty(len(local), buffers.array), []
    for n, (broken, error) in _fill(seed, sources, crops, batch.at(local), images).items():
        at = int(local[n])
        row = batch[at]
        for other in _others(batch, at):
            stand_in = batch[other]._replace(sample=row.sample)
            if not _fill(seed, sources, crops, [stand_in], images, first=n):
                name = f"{sources[broken.source].items.name}/{sources[broken.source].items.image_ids[broken.item]}"
                replaced.append(Replaced(at, other, name, str(error)))
                break
        else:
            raise error
    return images, replaced


def _fill(
    seed: int, sources: Sequence[Source], crops: Any, rows: Sequence[ImageRow], images: Images, first: int = 0
) -> dict[int, tuple[ImageRow, UserError]]:
    """Fills ``images`` with random crops of these rows, from number ``first`` on. Two that are joined are each squeezed
    to a half: one above the other if they are wide, else side by side. Returns the numbers of rows with an image that
    is missing or broken, this image, and why; they are left undefined."""
    joined = [
        (n, row._replace(item=row.joined, sample=row.sample + 1)) for n, row in enumerate(rows) if row.joined >= 0
    ]
    singles = [*rows, *(second for _, second in joined)]
    seconds = crops.empty(len(joined), functools.partial(np.empty, dtype=np.uint8))
    places = [*((images, first + n) for n in range(len(rows))), *((seconds, n) for n in range(len(joined)))]
    opened, errors = _fill_each(seed, sources, crops, singles, places)
    for number, (n, _) in enumerate(joined):  # squares: a start refuses recipes that join for NaFlex
        one, other = opened[n], opened[len(rows) + number]
        image, wide = images[first + n], one.width * other.width >= one.height * other.height
        join(image, seconds[number], image, above=wide)
    owners = [*range(len(rows)), *(n for n, _ in joined)]
    return {owners[k]: (singles[k], error) for k, error in errors.items()}


def _fill_each(
    seed: int,
    sources: Sequence[Source],
    crops: Any,
    rows: Sequence[ImageRow],
    places: Sequence[tuple[Images, int]],
) -> tuple[list[Opened], dict[int, UserError]]:
    """Fills each of ``places``, images and a number of them, with a random crop of the image of its row; returns the
    images, and why those of some rows are missing or broken."""
    opened, failed = list[Opened](), dict[int, UserError]()
    for n, row in enumerate(rows):
        try:
            opened.append(_open(sources, row))
        except _Broken as error:
            opened.append(Blank())
            failed[n] = error
    boxes = _boxes(seed, rows, opened, crops).each()
    for n, (image, box, (images, number)) in enumerate(zip(opened, boxes, places, strict=True)):
        try:
            crops.fill(image, box, images, number)
        except (ValueError, OSError) as error:
            failed[n] = _with_name(sources, rows[n], error)
    return opened, failed


def _others(batch: ImageRows, at: int) -> Iterator[int]:
    """The other rows of a batch that hold an image, beginning with the next one."""
    numbers = np.flatnonzero(batch.source_I >= 0)
    after = int(np.searchsorted(numbers, at))
    yield from (n for n in np.roll(numbers, -after).tolist() if n != at)


def _read_embeddings(
    seed: int, sources: Sequence[Source], dim: int, batch: ImageRows, local: np.ndarray
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


def _boxes(seed: int, rows: Sequence[ImageRow], opened: Sequence[Opened], crops: Crops | PatchCrops) -> Boxes:
    """A random box in the image of each row."""
    width_R, height_R = np.array([(image.width, image.height) for image in opened]).T
    sample_R, mirror_R = np.array([row.sample for row in rows]), np.array([row.mirror for row in rows], bool)
    return crops.boxes(width_R, height_R, mirror_R, Draws(seed, AUGMENT, sample_R))


class _Broken(UserError):
    """A missing or invalid image. Other disk errors say nothing about the image."""


def _open(sources: Sequence[Source], row: ImageRow) -> Opened:
    """The image of a row. Raises _Broken, and UserError if the disk failed."""
    if row.source < 0:
        return Blank()
    source = sources[row.source]
    try:
        return source.decoded[row.item] if source.decoded else Encoded.of(source.read_image(row.item))
    except (ValueError, OSError) as error:
        raise _with_name(sources, row, error) from error


def _with_name(sources: Sequence[Source], row: ImageRow, error: Exception) -> UserError:
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
        """The captions of the batch on the devices. ``rows`` places an array of this process's rows, ``whole`` one that
        all processes hold."""
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
        """Same as ``Tokens.place``."""
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
