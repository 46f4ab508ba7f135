"""Plans batches: distinct images, distinct captions, and the labels that determine the counts of every cell.

A batch is a pure function of (seed, step). Every process computes all of it except the pixels, so equal captions share
one row even across hosts, and the batch does not depend on the number of hosts.

Shape letters: B positions of the training order, R images before each has its row in the batch, V texts that are
sampled, S shards; I, U, K, T, A as in ``losses/batch.py``.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, overload

import numpy as np

from naturel_jax.data.batches.hard_images import showing_false_captions
from naturel_jax.data.batches.recipes import Recipe, Sampled
from naturel_jax.data.items.items import Items
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.random.draws import CAPTIONS, generator
from naturel_jax.data.random.order import Mixture, Shuffled
from naturel_jax.data.text.processor import Processor
from naturel_jax.data.text.texts import TextCache, names_side, trimmed
from naturel_jax.losses.batch import CaptionLabels, ImageLabels
from tfds_naturel.common.errors import UserError

_CAPTION_BUCKETS = 8  # at most this many different numbers of caption rows: each compiles the step again


class ImageRow(NamedTuple):
    """Origin of an image row: source, item in it, sample number, and whether mirroring keeps its captions true.

    Each position of the training order has two sample numbers, the second for a mined hard image, or for the item
    ``joined`` to this one, if that is not -1. ``source`` -1 is the blank image.
    """

    source: int
    item: int = 0
    sample: int = 0
    mirror: bool = False
    joined: int = -1


BLANK = ImageRow(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRows(Sequence[ImageRow]):
    """The rows of a batch, in columns."""

    source_I: np.ndarray
    item_I: np.ndarray
    sample_I: np.ndarray
    mirror_I: np.ndarray
    joined_I: np.ndarray

    def __len__(self) -> int:
        return len(self.source_I)

    @overload
    def __getitem__(self, n: int) -> ImageRow: ...
    @overload
    def __getitem__(self, n: slice) -> list[ImageRow]: ...
    def __getitem__(self, n: int | slice) -> ImageRow | list[ImageRow]:
        return self.at(n) if isinstance(n, slice) else self.at([n])[0]

    def __iter__(self) -> Iterator[ImageRow]:
        return iter(self[:])

    def at(self, which: slice | Sequence[int] | np.ndarray) -> list[ImageRow]:
        """Some of the rows."""
        columns = (self.source_I, self.item_I, self.sample_I, self.mirror_I, self.joined_I)
        return list(map(ImageRow, *(column[which].tolist() for column in columns)))


class Plan(NamedTuple):
    """A batch before its images are read: ``rows`` [I], ``tokens`` int32 [U, L]. ``number_U``: the number of each
    caption's text, counting the texts of all sources one after another; higher for texts that a recipe made."""

    rows: ImageRows
    tokens: np.ndarray
    image_labels: ImageLabels
    caption_labels: CaptionLabels
    number_U: np.ndarray


class MixturePart(NamedTuple):
    """One source of a mixture. ``hard_images`` maps an item to the items mined as its hard negatives: one of them then
    joins the batch with each sampled item, with its own captions, as in the published NegCLIP. If ``exchanged``, it is
    one of which the false caption of the sampled item is true, and has that item's captions with true and false
    exchanged, as in TripletCLIP."""

    items: Items
    recipe: Recipe
    weight: float = 1.0
    hard_images: Ragged | None = None
    exchanged: bool = False


class _SampledImages(NamedTuple):
    """Image rows of one source, and what was sampled for them. ``place_B``: twice the number of the anchor in the
    batch, and 1 more for the anchor's hard image. ``joined_B``: the item joined to each, or -1. ``exchanged``: the
    captions are those of the anchors, exchanged."""

    source: int
    place_B: np.ndarray
    item_B: np.ndarray
    joined_B: np.ndarray
    positives: Sampled
    negatives: Sampled
    exchanged: bool = False


class _SampledCaptions(NamedTuple):
    """The captions of a batch. ``texts`` [U]: the distinct ones, in order of first use; a caption's id is its index.
    ``number_U``: see ``Plan``. ``asserts``: for each, the ids of its facts, ascending. ``sampled``: ids of the
    positives of place p (row 2p) and of its negatives (row 2p + 1). ``counted``: the ids in ``sampled``, without those
    of images whose captions are the exchanged ones of another."""

    texts: list[str]
    number_U: np.ndarray
    asserts: Ragged
    sampled: Ragged
    counted: np.ndarray


class Planner:
    """Plans batches: samples items and their captions, and computes labels and tokens.

    ``shards``: number of blocks that image and caption rows are split into (the devices of the mesh's batch axes);
    ``chunks``: number of gradient-accumulation chunks per block; ``trim_eos``: for a causal tower that pools at its end
    token, the id of that token; captions are then trimmed to the longest in the batch, which does not affect the
    embeddings. None keeps the full context. ``whole_batches``: each batch is of one part, and these take turns.
    ``mirror``: images may be mirrored.

    Raises UserError if the batch size does not divide evenly, or a recipe does not fit its items.
    """

    def __init__(
        self,
        parts: Sequence[MixturePart],
        processor: Processor,
        *,
        batch_size: int,
        shards: int,
        seed: int,
        trim_eos: int | None,
        chunks: int = 1,
        whole_batches: bool = False,
        mirror: bool = True,
    ):
        if batch_size % shards:
            raise UserError(
                f"config.data.batch_size is {batch_size}: not a multiple of the {shards} devices that share a batch"
            )
        self.parts, self.processor = list(parts), processor
        self.batch_size, self.shards, self.seed, self.trim_eos, self.chunks = batch_size, shards, seed, trim_eos, chunks
        self._whole_batches, self._mirror = whole_batches, mirror
        self._mixture = Mixture([part.weight for part in self.parts])
        self._orders = [Shuffled(len(part.items), seed, s) for s, part in enumerate(self.parts)]
        ends = np.cumsum([0, *(len(part.items.texts) for part in self.parts)]).tolist()
        self._first_text, self._first_rewritten = ends[:-1], ends[-1]  # numbers of all parts' texts
        self._fact_ids = _number_facts(self.parts)
        self._fact_names_side = [np.array([*map(names_side, part.items.facts)], bool) for part in self.parts]
        self._repeats_image = np.array([part.recipe.repeat_image for part in self.parts])
        positives, negatives = zip(*(part.recipe.check(part.items) for part in parts), strict=True)
        self._max_positives, self._max_negatives = max(positives), max(negatives)
        self._max_shown = max(part.items.shows.widest * (1 + part.recipe.joins) for part in parts)
        self._max_asserted = sum(part.items.asserts.widest for part in parts)  # one text may occur in every part
        self._exchanges = any(part.exchanged for part in parts)
        # A mined hard image takes the sentinel's place.
        self._sentinel = any(part.recipe.sentinel and part.hard_images is None for part in parts)
        self._images_per_item = 2 if any(part.hard_images is not None for part in parts) else 1
        self._cache = TextCache(processor)

    def with_hard_images(self, mined: Mapping[int, Ragged]) -> "Planner":
        """The same planner with other hard images for these numbers of parts, which have some."""
        other = copy.copy(self)
        other.parts = [part._replace(hard_images=mined.get(s, part.hard_images)) for s, part in enumerate(self.parts)]
        return other

    def items(self, step: int) -> list[tuple[int, int]]:
        """(source, item) of every anchor of batch ``step``."""
        return list(zip(*(column.tolist() for column in self._anchors(step)), strict=True))

    def names(self, step: int) -> list[str]:
        """Names of the items of batch ``step``, for messages."""
        return [f"{self.parts[s].items.name}/{self.parts[s].items.image_ids[n]}" for s, n in self.items(step)]

    def texts(self, step: int) -> list[str]:
        """The distinct captions of batch ``step`` in the order of their ids."""
        return self._captions(self._sample(step)).texts

    def plan(self, step: int) -> Plan:
        """Batch ``step`` without its pixels; the same on every process."""
        sampled = self._sample(step)
        captions = self._captions(sampled)
        tokens, names_side_U = self._cache.look_up(captions.texts)
        rows, image_labels = self._image_rows(sampled, captions, names_side_U, step)
        tokens, number_U = self._padded(trimmed(tokens, self.trim_eos)), self._padded(captions.number_U)
        return Plan(rows, tokens, image_labels, self._caption_labels(captions), number_U)

    def _anchors(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The source and item of every anchor of batch ``step``."""
        if self._whole_batches:
            source_B, turn_B = self._mixture.at(np.full(self.batch_size, step))
            own_B = turn_B * self.batch_size + np.arange(self.batch_size)
        else:
            source_B, own_B = self._mixture.at(np.arange(step * self.batch_size, (step + 1) * self.batch_size))
        item_B = np.empty_like(own_B)
        for s, (part, order) in enumerate(zip(self.parts, self._orders, strict=True)):
            item_B[source_B == s] = part.items.images(order.at(own_B[source_B == s]))
        return source_B, item_B

    def _sample(self, step: int) -> list[_SampledImages]:
        """The anchors of batch ``step`` and one of the hard images of each that has any, with their captions."""
        source_B, item_B = self._anchors(step)
        sampled = []
        for s, part in enumerate(self.parts):
            rng, anchor_B = generator(self.seed, CAPTIONS, step, s), np.flatnonzero(source_B == s)
            sampled.append(self._images(s, 2 * anchor_B, item_B[anchor_B], rng))
            if part.hard_images is None:
                continue
            candidates = part.hard_images.take(item_B[anchor_B])
            if part.exchanged:
                captions = sampled[-1].positives, sampled[-1].negatives
                candidates = showing_false_captions(part.items, candidates, *captions)
            has_any = np.flatnonzero(candidates.lengths)
            column = rng.integers(candidates.lengths[has_any])
            mined_B = candidates.values[candidates.starts[has_any] + column]
            place_B = 2 * anchor_B[has_any] + 1
            if part.exchanged:
                true, false = (Sampled(side.texts.take(has_any)) for side in captions)
                sampled.append(_SampledImages(s, place_B, mined_B, np.full_like(mined_B, -1), false, true, True))
            else:
                sampled.append(self._images(s, place_B, mined_B, rng))
        return sampled

    def _images(self, source: int, place_B: np.ndarray, item_B: np.ndarray, rng: np.random.Generator) -> _SampledImages:
        items, recipe = self.parts[source].items, self.parts[source].recipe
        if not recipe.joins:
            none_B = np.full_like(item_B, -1)
            return _SampledImages(source, place_B, item_B, none_B, *recipe.sample(items, item_B, rng))
        number_B = rng.integers(len(items), size=len(item_B))
        joined_B = items.images(np.where(items.images(number_B) == item_B, (number_B + 1) % len(items), number_B))
        captions = recipe.sample_joined(items, item_B, joined_B, rng)
        flip_B = rng.integers(2, size=len(item_B)) == 1  # which is left, or above
        return _SampledImages(
            source, place_B, np.where(flip_B, joined_B, item_B), np.where(flip_B, item_B, joined_B), *captions
        )

    def _captions(self, sampled: Sequence[_SampledImages]) -> _SampledCaptions:
        """The captions of a batch: equal texts are one caption, which asserts whatever any of them does."""
        numbers, rewritten = self._numbers(sampled)
        number_V, first_V, inverse = np.unique(numbers.values, return_index=True, return_inverse=True)
        text_V = np.empty(len(number_V), object)
        text_V[len(number_V) - len(rewritten) :] = rewritten
        claims = []  # (index in number_V, fact)
        for part, first, fact_ids in zip(self.parts, self._first_text, self._fact_ids, strict=True):
            own_V = np.flatnonzero((number_V >= first) & (number_V < first + len(part.items.texts)))
            text_V[own_V] = part.items.texts_at(number_V[own_V] - first)
            facts = part.items.asserts.take(number_V[own_V] - first)
            claims.append((own_V[facts.rows], fact_ids[facts.values]))
        ids: dict[str, int] = {}
        id_V, by_first_use = np.empty(len(number_V), np.int64), np.argsort(first_V)
        id_V[by_first_use] = [ids.setdefault(text, len(ids)) for text in text_V[by_first_use].tolist()]
        claiming, claimed = map(np.concatenate, zip(*claims, strict=True))
        width = 1 + int(claimed.max(initial=0))
        id_, fact = np.divmod(np.unique(id_V[claiming] * width + claimed), width)
        asserts = Ragged.from_lengths(np.bincount(id_, minlength=len(ids)), fact)
        number_U = np.empty(len(ids), np.int64)
        number_U[id_V[::-1]] = number_V[::-1]  # the lowest number of each id
        used = Ragged(numbers.starts, id_V[inverse])
        again = np.concatenate([images.place_B for images in sampled if images.exchanged] or [np.empty(0, int)])
        counted = used.values[~np.isin(used.rows // 2, again)]
        return _SampledCaptions(list(ids), number_U, asserts, used, counted)

    def _numbers(self, sampled: Sequence[_SampledImages]) -> tuple[Ragged, list[str]]:
        """A number for each sampled caption, in the rows of its ``sampled``, and the distinct rewritten texts.

        Numbers of rewritten texts follow those of all sources' texts. Equal texts may have several numbers.
        """
        rewritten: dict[str, int] = {}
        rows, numbers = [], []
        for images in sampled:
            for side, captions in enumerate((images.positives, images.negatives)):
                rows.append(2 * images.place_B[captions.texts.rows] + side)
                if captions.rewritten is None:
                    numbers.append(self._first_text[images.source] + captions.texts.values)
                else:
                    own = [rewritten.setdefault(text, len(rewritten)) for text in captions.rewritten]
                    numbers.append(self._first_rewritten + np.array(own, np.int64))
        return _by_row(rows, numbers, 4 * self.batch_size), list(rewritten)

    def _image_rows(
        self, sampled: Sequence[_SampledImages], captions: _SampledCaptions, names_side_U: np.ndarray, step: int
    ) -> tuple[ImageRows, ImageLabels]:
        """Blocks of equal length, one per shard, each followed by its sentinel (as many copies as the block's images)
        and padding."""
        columns = list(map(np.concatenate, zip(*(images[1:4] for images in sampled), strict=True)))
        for of_part in ([images.source for images in sampled], [images.exchanged for images in sampled]):
            columns.append(np.repeat(of_part, [len(images.item_B) for images in sampled]))
        order = np.argsort(columns[0])
        place_R, item_R, joined_R, source_R, exchanged_R = (column[order] for column in columns)
        positives, negatives = captions.sampled.take(2 * place_R), captions.sampled.take(2 * place_R + 1)
        copies_R = np.where(self._repeats_image[source_R], positives.lengths, 1)
        shows, keeps_side = self._shows(sampled)
        keeps_side[captions.sampled.rows[names_side_U[captions.sampled.values]] // 2] = True

        block_R = place_R // (2 * self.batch_size // self.shards)
        length = self.batch_size // self.shards * self._images_per_item + self._sentinel
        length = math.ceil(length / self.chunks) * self.chunks
        images_S = np.bincount(block_R, minlength=self.shards)
        first_S, start_S = np.cumsum(images_S) - images_S, np.arange(self.shards) * length
        index_R = np.arange(len(place_R)) + (start_S - first_S)[block_R]

        def spread(of_row: np.ndarray, fill: int) -> np.ndarray:
            out = np.full((self.shards * length, *of_row.shape[1:]), fill, of_row.dtype)
            out[index_R] = of_row
            return out

        mult_I = spread(copies_R.astype(np.float32), 0)
        if self._sentinel:
            mult_I[start_S + images_S] = np.bincount(block_R, copies_R, self.shards)
        may_mirror_R = ~keeps_side[place_R] & self._mirror
        columns = [source_R, item_R, 2 * step * self.batch_size + place_R, may_mirror_R, joined_R]
        return ImageRows(*map(spread, columns, BLANK)), ImageLabels(
            mult_I=mult_I,
            positives_IK=spread(positives.padded(self._max_positives, -1), -1),
            negatives_IK=spread(negatives.padded(self._max_negatives, -1), -1),
            shows_IT=spread(shows.take(place_R).padded(self._max_shown, -1), -1),
            exchanged_I=spread(exchanged_R, False) if self._exchanges else None,
        )

    def _shows(self, sampled: Sequence[_SampledImages]) -> tuple[Ragged, np.ndarray]:
        """The ids of the facts that the image of each place shows, and whether any of their names mentions a side."""
        rows, values = [], []
        names_side = np.zeros(2 * self.batch_size, bool)
        for source, place_B, item_B, joined_B, *_ in sampled:
            with_joined_B = np.concatenate([item_B, joined_B[joined_B >= 0]])
            facts = self.parts[source].items.shows.take(with_joined_B)
            rows.append(np.concatenate([place_B, place_B[joined_B >= 0]])[facts.rows])
            values.append(self._fact_ids[source][facts.values])
            names_side[rows[-1][self._fact_names_side[source][facts.values]]] = True
        return _by_row(rows, values, 2 * self.batch_size), names_side

    def _caption_rows(self, used: int) -> int:
        """Number of caption rows including padding: one of a few values, all divisible by the mesh and the chunks."""
        unit = self.shards * self.chunks
        most = self._images_per_item * self.batch_size * (self._max_positives + self._max_negatives)
        bucket = math.ceil(most / _CAPTION_BUCKETS / unit) * unit
        return math.ceil(used / bucket) * bucket

    def _caption_labels(self, captions: _SampledCaptions) -> CaptionLabels:
        used = len(captions.texts)
        padding = (0, self._caption_rows(used) - used)
        mult_U = np.bincount(captions.counted, minlength=used).astype(np.float32)
        return CaptionLabels(
            mult_U=np.pad(mult_U, padding),
            id_U=np.pad(np.arange(used, dtype=np.int32), padding, constant_values=-2),
            asserts_UA=np.pad(captions.asserts.padded(self._max_asserted, -2), (padding, (0, 0)), constant_values=-2),
        )

    def _padded(self, of_caption: np.ndarray) -> np.ndarray:
        """``of_caption`` with a row for each caption row, [U, ...]; padding rows repeat the last caption."""
        padding = (0, self._caption_rows(len(of_caption)) - len(of_caption))
        return np.pad(of_caption, (padding, *[(0, 0)] * (of_caption.ndim - 1)), mode="edge")


def _by_row(rows: Sequence[np.ndarray], values: Sequence[np.ndarray], count: int) -> Ragged:
    """``count`` rows with these values, each in its row; the values of a row stay in their order."""
    row, value = np.concatenate(rows), np.concatenate(values)
    return Ragged.from_lengths(np.bincount(row, minlength=count), value[np.argsort(row, kind="stable")])


def _number_facts(parts: Iterable[MixturePart]) -> list[np.ndarray]:
    """For each part, the ids of its facts: equal names share one id across parts."""
    names = sorted({name for part in parts for name in part.items.facts})
    ids = {name: i for i, name in enumerate(names)}
    return [np.array([ids[name] for name in part.items.facts], np.int32) for part in parts]
