"""Draws the first batch of a run, as the step receives it, in one image: the first thing to look at.

Shape letters: I images, P patches, V values of a patch, U distinct captions, K captions sampled per image.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.stages import EmbeddedImages
from naturel_jax.data.images import naflex
from naturel_jax.losses.batch import Batch, ImageLabels
from naturel_jax.models.naflex import Patches
from naturel_jax.training import cards
from naturel_jax.training.cards import Line

_SHOWN = 16  # images
_LONGEST = 512  # pixels of a side: longer strips of NaFlex are shrunk


def batches(
    pipeline: Pipeline, folder: epath.Path, start: int, stop: int, show: Callable[[bytes], object] = lambda png: None
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``stop - 1``. Step 0's is also drawn, to ``first_batch.png`` and ``show``."""
    for number, batch in enumerate(pipeline.batches(start, stop, folder), start):
        if number == 0 and jax.process_index() == 0:
            shown = batch
            if isinstance(pipeline.images, EmbeddedImages):
                shown = next(dataclasses.replace(pipeline, images=pipeline.images.pixels).batches(0, 1))
            copies = pipeline.planner.plan(0).caption_labels.mult_U
            png = draw(shown, pipeline.planner.texts(0), copies)
            storage.write(folder / "first_batch.png", png)
            show(png)
        yield batch


def draw(batch: Batch, texts: Sequence[str], copies: Sequence[float] | np.ndarray) -> bytes:
    """A PNG of the first 16 images of ``batch``, as the step receives them, next to their captions.

    Positives are marked ``+``, negatives ``-``, and anything that occurs more than once in the expanded batch is marked
    with its multiplicity. If there is no sentinel among the first 16 images, the first one takes the last place.
    ``texts``: the caption for each id; ``copies``: its multiplicity. With several processes, only the rows of the
    calling one are shown. Needs no display.
    """
    from PIL import Image

    labels = jax.tree.map(_local_rows, batch.image_labels)
    rows = _shown(labels)
    pictures = [Image.fromarray(pixels) for pixels in _pictures(batch, rows)]
    for picture in pictures:
        picture.thumbnail((_LONGEST, _LONGEST))
    return cards.draw(list(map(cards.enlarged, pictures)), [_lines(labels, row, texts, copies) for row in rows])


def _pictures(batch: Batch, rows: Sequence[int]) -> list[np.ndarray]:
    """uint8 [H, W, 3] of some of the rows."""
    images = jax.tree.map(_local_rows, batch.images)
    if not isinstance(images, Patches):
        return [images[row] for row in rows]
    return [naflex.uncut(images.patches_IPV[row], *images.grid_I2[row].tolist()) for row in rows]


def _local_rows(array: np.ndarray | jax.Array) -> np.ndarray:
    """The rows that this process holds, in ascending order."""
    if isinstance(array, np.ndarray):
        return array
    blocks = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([jax.device_get(blocks[start]) for start in sorted(blocks)])


def _is_sentinel(labels: ImageLabels) -> np.ndarray:
    """Images that have no captions and are not padding, bool [I]."""
    captions_I = (labels.positives_IK >= 0).any(axis=1) | (labels.negatives_IK >= 0).any(axis=1)
    return np.asarray((labels.mult_I > 0) & ~captions_I)


def _shown(labels: ImageLabels) -> list[int]:
    shown: list[int] = np.flatnonzero(np.asarray(labels.mult_I) > 0)[:_SHOWN].tolist()
    sentinels = np.flatnonzero(_is_sentinel(labels)).tolist()
    if sentinels and sentinels[0] not in shown:
        shown[-1] = sentinels[0]
    return shown


def _lines(labels: ImageLabels, row: int, texts: Sequence[str], copies: Sequence[float] | np.ndarray) -> list[Line]:
    """The lines next to one image."""
    name = "sentinel (blank negative image)" if _is_sentinel(labels)[row] else f"image {row}"
    lines: list[Line] = [(name + _times(float(labels.mult_I[row])), cards.INK, True)]
    for ids, mark, colour in (
        (labels.positives_IK, "+", cards.POSITIVE),
        (labels.negatives_IK, "\u2212", cards.NEGATIVE),
    ):
        sampled: list[int] = ids[row][ids[row] >= 0].tolist()
        for caption in sampled:
            text = f"{mark} {cards.printable(texts[caption])}{_times(float(copies[caption]))}"
            lines.append((text, colour, False))
    return lines


def _times(multiplicity: float) -> str:
    return "" if multiplicity == 1 else f"  \u00d7{multiplicity:g}"
