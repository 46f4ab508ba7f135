"""Plans batches: distinct images, distinct captions, and the labels that determine the counts of every cell.

A batch is a pure function of (seed, step). Every process works out all of it except the pixels, so equal captions share
one row even across hosts, and the batch does not depend on the number of hosts.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import grain
import numpy as np

from naturel_jax.batch import CaptionLabels, ImageLabels
from naturel_jax.data.items import Items
from naturel_jax.data.processor import Processor
from naturel_jax.data.recipes import Recipe, Sampled
from tfds_naturel.errors import UserError

ORDER, CAPTIONS, AUGMENT = range(3)  # streams of random numbers, one for each purpose

_TOKEN_BUCKET = 8  # trimmed lengths are multiples of this
_CAPTION_BUCKETS = 8  # at most this many numbers of caption rows: each one compiles the step again
_MAX_CACHED_TOKENS = 500_000  # texts; rewritten captions hardly ever repeat
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)  # "left of", and the fact Cup|left_of|Cat


def names_side(text: str) -> bool:
    """Whether ``text``, a caption or a fact's name, mentions left or right: mirroring the image may make it false."""
    return bool(_SIDE.search(text))


class Row(NamedTuple):
    """Where an image row comes from: source, item in it, sample number, and whether mirroring keeps its captions true.

    Each position of the training order has two sample numbers, the second for a mined hard image. ``source`` -1 is the
    blank image.
    """

    source: int
    item: int = 0
    sample: int = 0
    mirror: bool = False


BLANK = Row(-1)


class Plan(NamedTuple):
    """A batch before its images are read: ``rows`` [I], ``tokens`` int32 [U, L]."""

    rows: list[Row]
    tokens: np.ndarray
    image_labels: ImageLabels
    caption_labels: CaptionLabels


class Part(NamedTuple):
    """One source of a mixture. ``hard_images`` maps an item to the items mined as its hard negatives: one of them then
    joins the batch with each sampled item, with its own captions, as in the published NegCLIP."""

    items: Items
    recipe: Recipe
    weight: float = 1.0
    hard_images: Sequence[Sequence[int]] | None = None


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """Random generator for one position (or sample) of the training order, independent of every other position, stream
    and seed."""
    return np.random.Generator(np.random.Philox(key=[(seed << 8) + stream, position]))


class _BatchCaptions:
    """The distinct captions of a batch, with ids in order of first use."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.mult: list[int] = []
        self.asserts: list[set[int]] = []

    def add(self, sampled: Sampled, fact_ids: np.ndarray) -> int:
        """Adds one copy of the caption and returns its id. ``fact_ids``: ids of the facts of its dataset."""
        caption_id = self.ids.setdefault(sampled.text, len(self.ids))
        if caption_id == len(self.mult):
            self.mult.append(0)
            self.asserts.append(set())
        self.mult[caption_id] += 1
        self.asserts[caption_id].update(fact_ids[list(sampled.asserts)].tolist())
        return caption_id


class _ImageRow(NamedTuple):
    """An image row with its labels."""

    row: Row
    mult: int
    positives: Sequence[int] = ()
    negatives: Sequence[int] = ()
    shows: Sequence[int] | np.ndarray = ()


class Planner:
    """Plans batches: samples items and their captions, and works out labels and tokens.

    ``shards``: number of blocks that image and caption rows are split into (the devices of the mesh's batch axes);
    ``chunks``: number of gradient-accumulation chunks per block; ``trim_eos``: for a causal tower that pools at its end
    token, the id of that token; captions are then trimmed to the longest in the batch, which does not affect the
    embeddings. None keeps the full context.

    Raises UserError if the batch size does not divide evenly, or a recipe does not fit its items.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        processor: Processor,
        *,
        batch_size: int,
        shards: int,
        seed: int,
        trim_eos: int | None,
        chunks: int = 1,
    ):
        if batch_size % shards:
            raise UserError(
                f"config.data.batch_size is {batch_size}: not a multiple of the {shards} devices that share a batch"
            )
        self.parts, self.processor = list(parts), processor
        self.batch_size, self.shards, self.seed, self.trim_eos, self.chunks = batch_size, shards, seed, trim_eos, chunks
        self._order = _training_order(self.parts, seed)
        self._fact_ids = _number_facts(self.parts)
        positives, negatives = zip(*(part.recipe.check(part.items) for part in parts), strict=True)
        self._max_positives, self._max_negatives = max(positives), max(negatives)
        self._max_shown = max(part.items.shows.widest for part in parts)
        self._max_asserted = sum(part.items.asserts.widest for part in parts)  # one text may occur in every part
        # A mined hard image takes the sentinel's place.
        self._sentinel = any(part.recipe.sentinel and not part.hard_images for part in parts)
        self._images_per_item = 2 if any(part.hard_images for part in parts) else 1
        self._token_cache: dict[str, np.ndarray] = {}

    def items(self, step: int) -> list[tuple[int, int]]:
        """(source, item) of every anchor of batch ``step``."""
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]

    def names(self, step: int) -> list[str]:
        """Names of the items of batch ``step``, for messages."""
        return [f"{self.parts[s].items.name}/{self.parts[s].items.image_ids[n]}" for s, n in self.items(step)]

    def texts(self, step: int) -> list[str]:
        """The distinct captions of batch ``step`` in the order of their ids."""
        return list(self._sample(step)[0].ids)

    def plan(self, step: int) -> Plan:
        """Batch ``step`` without its pixels; the same on every process."""
        captions, anchors = self._sample(step)
        rows = self._pad_and_shard(anchors)
        images = ImageLabels(
            mult_I=np.array([row.mult for row in rows], np.float32),
            positives_IK=_pad_rows([row.positives for row in rows], self._max_positives, -1),
            negatives_IK=_pad_rows([row.negatives for row in rows], self._max_negatives, -1),
            shows_IT=_pad_rows([row.shows for row in rows], self._max_shown, -1),
        )
        return Plan([row.row for row in rows], self._tokens(captions), images, self._caption_labels(captions))

    def _sample(self, step: int) -> tuple[_BatchCaptions, list[list[_ImageRow]]]:
        """The captions of batch ``step``, and the image rows of each of its anchors."""
        captions, first = _BatchCaptions(), step * self.batch_size
        anchors = [
            self._sample_anchor(captions, source, item, first + offset)
            for offset, (source, item) in enumerate(self.items(step))
        ]
        return captions, anchors

    def _sample_anchor(self, captions: _BatchCaptions, source: int, item: int, position: int) -> list[_ImageRow]:
        """The image row of one anchor, and that of one of its hard images if it has any."""
        part, rng = self.parts[source], generator(self.seed, CAPTIONS, position)
        images = [item]
        if part.hard_images and len(candidates := part.hard_images[item]):
            images.append(int(rng.choice(candidates)))
        return [self._image_row(captions, source, image, 2 * position + k, rng) for k, image in enumerate(images)]

    def _image_row(
        self, captions: _BatchCaptions, source: int, item: int, sample: int, rng: np.random.Generator
    ) -> _ImageRow:
        items, recipe, fact_ids = self.parts[source].items, self.parts[source].recipe, self._fact_ids[source]
        positives, negatives = recipe.sample(items, item, rng)
        shows = items.shows[item]
        words = [caption.text for caption in (*positives, *negatives)] + [items.facts[fact] for fact in shows]
        return _ImageRow(
            Row(source, item, sample, mirror=not any(map(names_side, words))),
            len(positives) if recipe.repeat_image else 1,
            [captions.add(caption, fact_ids) for caption in positives],
            [captions.add(caption, fact_ids) for caption in negatives],
            fact_ids[shows],
        )

    def _pad_and_shard(self, anchors: list[list[_ImageRow]]) -> list[_ImageRow]:
        """Blocks of equal length, one per shard, each followed by its sentinel (as many copies as the block's images)
        and padding."""
        block = len(anchors) // self.shards
        length = block * self._images_per_item + self._sentinel
        length = math.ceil(length / self.chunks) * self.chunks
        blocks = []
        for start in range(0, len(anchors), block):
            rows = [row for anchor in anchors[start : start + block] for row in anchor]
            if self._sentinel:
                rows.append(_ImageRow(BLANK, sum(row.mult for row in rows)))
            blocks.append(rows + [_ImageRow(BLANK, 0)] * (length - len(rows)))
        return [row for rows in blocks for row in rows]

    def _caption_rows(self, captions: _BatchCaptions) -> int:
        """Number of caption rows including padding: one of a few values, all divisible by the mesh and the chunks."""
        unit = self.shards * self.chunks
        most = self._images_per_item * self.batch_size * (self._max_positives + self._max_negatives)
        bucket = math.ceil(most / _CAPTION_BUCKETS / unit) * unit
        return math.ceil(len(captions.ids) / bucket) * bucket

    def _caption_labels(self, captions: _BatchCaptions) -> CaptionLabels:
        used = len(captions.ids)
        padding = self._caption_rows(captions) - used
        return CaptionLabels(
            mult_U=np.pad(np.array(captions.mult, np.float32), (0, padding)),
            id_U=np.pad(np.arange(used, dtype=np.int32), (0, padding), constant_values=-2),
            asserts_UA=_pad_rows([*map(sorted, captions.asserts), *[[]] * padding], self._max_asserted, -2),
        )

    def _tokens(self, captions: _BatchCaptions) -> np.ndarray:
        """int32 [U, L]; padding rows repeat the last caption."""
        cache = self._token_cache
        if new := [text for text in captions.ids if text not in cache]:
            if len(cache) > _MAX_CACHED_TOKENS:
                cache.clear()
                new = list(captions.ids)
            cache.update(zip(new, self.processor.tokenize(new), strict=True))
        tokens = np.stack([cache[text] for text in captions.ids])
        if self.trim_eos is not None:
            longest = int((tokens == self.trim_eos).argmax(axis=1).max()) + 1
            tokens = tokens[:, : math.ceil(longest / _TOKEN_BUCKET) * _TOKEN_BUCKET]
        return np.pad(tokens, ((0, self._caption_rows(captions) - len(tokens)), (0, 0)), mode="edge")


def _pad_rows(rows: Sequence[Sequence[int] | np.ndarray], width: int, fill: int) -> np.ndarray:
    """Rows of ids as int32 [len(rows), width], at least one column wide."""
    out = np.full((len(rows), max(width, 1)), fill, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _number_facts(parts: Iterable[Part]) -> list[np.ndarray]:
    """For each part, the ids of its facts: equal names share one id across parts."""
    names = sorted({name for part in parts for name in part.items.facts})
    ids = {name: i for i, name in enumerate(names)}
    return [np.array([ids[name] for name in part.items.facts], np.int32) for part in parts]


def _training_order(parts: Sequence[Part], seed: int) -> Sequence[tuple[int, int]]:
    """position -> (source, item): every source is reshuffled each epoch, and the sources are mixed by weight."""
    sources = [
        grain.MapDataset.range(len(part.items))
        .seed(int(np.random.SeedSequence((seed, ORDER, s)).generate_state(1)[0]))
        .shuffle()
        .repeat()
        .map(lambda k, s=s, items=part.items: (s, items.image(k)))
        for s, part in enumerate(parts)
    ]
    order = grain.MapDataset.mix(sources, [part.weight for part in parts]) if len(sources) > 1 else sources[0]
    return cast(Sequence[tuple[int, int]], order)  # without a filter no element is None
