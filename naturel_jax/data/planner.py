"""The batch: distinct images, distinct captions, and the labels from which the counts of every cell follow.

A batch is a pure function of (seed, step). Every process works out the whole of it but for the pixels, so equal
captions are one row also across hosts, and the batch is the same on any number of them.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import grain
import numpy as np

from naturel_jax.batch import CaptionLabels, ImageLabels
from naturel_jax.data.items import Items
from naturel_jax.data.processor import Processor
from naturel_jax.data.recipes import Drawn, Recipe

ORDER, CAPTIONS, AUGMENT = range(3)  # streams of random numbers, one for each purpose

_TOKEN_BUCKET = 8  # trimmed lengths are multiples of this
_CAPTION_BUCKETS = 8  # at most so many different numbers of caption rows: each is a compilation of the step
_SIDES = re.compile(r"\b(left|right)\b|\|(left|right)_of\|", re.IGNORECASE)


class Row(NamedTuple):
    """Where an image row comes from: source, item in it, the number of its draw (two for each position of the training
    order, the second for a mined hard image), and whether mirroring keeps its captions true. ``source`` -1 is the
    blank picture."""

    source: int
    item: int = 0
    draw: int = 0
    mirror: bool = False


BLANK = Row(-1)


class Plan(NamedTuple):
    """A batch before its pixels are read."""

    rows: list[Row]
    tokens: np.ndarray
    image_labels: ImageLabels
    caption_labels: CaptionLabels


class Part(NamedTuple):
    """One source of a mixture. ``hard_images`` maps an item to the items mined as its hard negatives: one of them then
    joins the batch beside each drawn item, with captions of its own, as in the published NegCLIP."""

    items: Items
    recipe: Recipe
    weight: float = 1.0
    hard_images: Sequence[Sequence[int]] | None = None


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """Random numbers of one position (or draw) of the training order, independent of every other position, stream and
    seed."""
    return np.random.Generator(np.random.Philox(key=[(seed << 8) + stream, position]))


class _Captions:
    """The distinct captions of a batch in the order of their first use."""

    def __init__(self):
        self.rows: dict[str, int] = {}
        self.mult: list[int] = []
        self.asserts: list[set[int]] = []

    def add(self, drawn: Drawn, triplet_numbers: np.ndarray) -> int:
        """Counts one copy of the caption and returns its id."""
        row = self.rows.setdefault(drawn.text, len(self.rows))
        if row == len(self.mult):
            self.mult.append(0)
            self.asserts.append(set())
        self.mult[row] += 1
        self.asserts[row].update(triplet_numbers[list(drawn.asserts)].tolist())
        return row


class _ImageRow(NamedTuple):
    row: Row
    mult: int
    positives: Sequence[int] = ()
    negatives: Sequence[int] = ()
    shows: Sequence[int] = ()


def _ragged(rows: Iterable[Sequence[int]], width: int, fill: int) -> np.ndarray:
    """Rows of ids, padded to ``width`` (at least 1)."""
    rows = list(rows)
    out = np.full((len(rows), max(width, 1)), fill, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


class Planner:
    """Plans batches: draws the items, their captions, and works out labels and tokens.

    ``shards``: blocks that image rows and caption rows are cut into (the devices of the mesh's batch axes);
    ``chunks``: the gradient-accumulation chunks that each block divides into; ``trim_eos``: for a causal tower that
    pools at its end token, the id of that token: captions are cut to the longest of the batch, which changes nothing.
    None keeps the full context.

    Raises ValueError when the batch size does not divide.
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
            raise ValueError(
                f"config.data.batch_size is {batch_size}: not a multiple of the {shards} devices that share a batch"
            )
        self.parts, self.processor = list(parts), processor
        self.batch_size, self.shards, self.seed, self.trim_eos, self.chunks = batch_size, shards, seed, trim_eos, chunks
        self._order = _training_order(self.parts, seed)
        names = sorted({name for part in self.parts for name in part.items.triplets})
        number = {name: i for i, name in enumerate(names)}
        self._triplet_numbers = [
            np.array([number[name] for name in part.items.triplets], np.int32) for part in self.parts
        ]
        self._positives = max(part.recipe.positives for part in self.parts)
        self._negatives = max(part.recipe.negatives for part in self.parts)
        self._shows = max(int(np.diff(part.items.groups_N1).max()) for part in self.parts)
        self._asserts = sum(max(map(len, part.items.asserts)) for part in self.parts)
        # A mined hard image takes the sentinel's place.
        self._sentinel = any(part.recipe.sentinel and not part.hard_images for part in self.parts)
        images = 2 if any(part.hard_images for part in self.parts) else 1
        self._capacity = images * batch_size * (self._positives + self._negatives)
        self._token_cache: dict[str, np.ndarray] = {}

    def items(self, step: int) -> list[tuple[int, int]]:
        """(source, item) of every anchor of batch ``step``."""
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]

    def names(self, step: int) -> list[str]:
        """Names of the items of batch ``step``, for messages."""
        return [f"{self.parts[s].items.name}/{self.parts[s].items.image_ids[n]}" for s, n in self.items(step)]

    def plan(self, step: int) -> Plan:
        """Batch ``step`` without its pixels; the same on every process."""
        captions = _Captions()
        drawn = [
            self._draw(captions, source, item, step * self.batch_size + offset)
            for offset, (source, item) in enumerate(self.items(step))
        ]
        rows = self._lay_out(drawn)
        images = ImageLabels(
            mult_I=np.array([row.mult for row in rows], np.float32),
            positives_IK=_ragged((row.positives for row in rows), self._positives, -1),
            negatives_IK=_ragged((row.negatives for row in rows), self._negatives, -1),
            shows_IT=_ragged((row.shows for row in rows), self._shows, -1),
        )
        return Plan([row.row for row in rows], self._tokens(captions), images, self._caption_labels(captions))

    def _draw(self, captions: _Captions, source: int, item: int, position: int) -> list[_ImageRow]:
        """The image row of one anchor, and that of its hard image where the source has some."""
        part, rng = self.parts[source], generator(self.seed, CAPTIONS, position)
        images = [item]
        if part.hard_images and len(candidates := part.hard_images[item]):
            images.append(int(rng.choice(candidates)))
        return [self._image_row(captions, source, image, 2 * position + k, rng) for k, image in enumerate(images)]

    def _image_row(self, captions, source, item, draw, rng) -> _ImageRow:
        items, recipe = self.parts[source].items, self.parts[source].recipe
        numbers = self._triplet_numbers[source]
        sides = recipe.captions(items, item, rng)
        texts = [drawn.text for side in sides for drawn in side]
        positives, negatives = ([captions.add(drawn, numbers) for drawn in side] for side in sides)
        shown = items.shows(item)
        mirror = not any(map(_SIDES.search, [*texts, *(items.triplets[t] for t in shown)]))
        return _ImageRow(Row(source, item, draw, mirror), recipe.copies, positives, negatives, numbers[shown])

    def _lay_out(self, drawn: list[list[_ImageRow]]) -> list[_ImageRow]:
        """Blocks of equal length, each with its sentinel (as many copies as the block's images) and padding at the
        end."""
        block = len(drawn) // self.shards
        blocks = [
            [row for anchor in drawn[start : start + block] for row in anchor] for start in range(0, len(drawn), block)
        ]
        hard = any(part.hard_images for part in self.parts)
        length = block * (2 if hard else 1) + self._sentinel
        length = math.ceil(length / self.chunks) * self.chunks
        for rows in blocks:
            if self._sentinel:
                rows.append(_ImageRow(BLANK, sum(row.mult for row in rows)))
            rows += [_ImageRow(BLANK, 0)] * (length - len(rows))
        return [row for rows in blocks for row in rows]

    def _caption_rows(self, captions: _Captions) -> int:
        """Number of caption rows, padding included: one of few values, each a multiple of what the mesh and the chunks
        divide."""
        unit = self.shards * self.chunks
        bucket = math.ceil(self._capacity / _CAPTION_BUCKETS / unit) * unit
        return math.ceil(len(captions.mult) / bucket) * bucket

    def _caption_labels(self, captions: _Captions) -> CaptionLabels:
        used, rows = len(captions.mult), self._caption_rows(captions)
        padding = rows - used
        return CaptionLabels(
            mult_U=np.pad(np.array(captions.mult, np.float32), (0, padding)),
            id_U=np.pad(np.arange(used, dtype=np.int32), (0, padding), constant_values=-2),
            asserts_UA=_ragged([*map(sorted, captions.asserts), *[()] * padding], self._asserts, -2),
        )

    def _tokens(self, captions: _Captions) -> np.ndarray:
        cache = self._token_cache
        if new := [text for text in captions.rows if text not in cache]:
            if len(cache) > 500_000:  # rewritten captions are ever new ones
                cache.clear()
                new = list(captions.rows)
            cache.update(zip(new, self.processor.tokenize(new), strict=True))
        tokens = np.stack([cache[text] for text in captions.rows])
        if self.trim_eos is not None:
            longest = int((tokens == self.trim_eos).argmax(axis=1).max()) + 1
            tokens = tokens[:, : math.ceil(longest / _TOKEN_BUCKET) * _TOKEN_BUCKET]
        return np.pad(tokens, ((0, self._caption_rows(captions) - len(tokens)), (0, 0)), mode="edge")


def _training_order(parts: Sequence[Part], seed: int) -> grain.MapDataset:
    """position -> (source, item): every source shuffled anew each epoch, mixed by weight."""
    sources = [
        grain.MapDataset.range(len(part.items))
        .seed(int(np.random.SeedSequence((seed, ORDER, s)).generate_state(1)[0]))
        .shuffle()
        .repeat()
        .map(lambda n, s=s: (s, n))
        for s, part in enumerate(parts)
    ]
    return grain.MapDataset.mix(sources, [part.weight for part in parts]) if len(sources) > 1 else sources[0]
