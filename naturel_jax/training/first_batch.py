"""Draws the first batch of a run, as the step receives it, in one image: the first thing to look at.

Shape letters: I images, P patches, V values of a patch, U distinct captions, K captions sampled per image.
"""

import dataclasses
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.stages import EmbeddedImages
from naturel_jax.data.images import naflex
from naturel_jax.losses.batch import Batch, ImageLabels
from naturel_jax.models.naflex import Patches

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_SHOWN = 16  # images
_COLUMNS = 2
_SIDE = 192  # smaller images are enlarged by the largest integer factor that does not exceed this
_LONGEST = 512  # larger ones are shrunk to this: strips of NaFlex
_MARGIN, _LINE = 16, 20  # pixels
_CHARACTERS = 52  # per line
_POSITIVE, _NEGATIVE, _INK = "#1a7f37", "#cf222e", "#1f2328"
_Line = tuple[str, str, bool]  # text, colour, bold


def batches(pipeline: Pipeline, folder: epath.Path, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``stop - 1``. Step 0's is also written to ``first_batch.png``."""
    for number, batch in enumerate(pipeline.batches(start, stop), start):
        if number == 0 and jax.process_index() == 0:
            shown = batch
            if isinstance(pipeline.images, EmbeddedImages):
                shown = next(dataclasses.replace(pipeline, images=pipeline.images.pixels).batches(0, 1))
            copies = pipeline.planner.plan(0).caption_labels.mult_U
            write(shown, pipeline.planner.texts(0), copies, folder / "first_batch.png")
        yield batch


def write(batch: Batch, texts: Sequence[str], copies: Sequence[float] | np.ndarray, file: epath.PathLike) -> None:
    """Writes one PNG of the first 16 images of ``batch``, as the step receives them, next to their captions.

    Positives are marked ``+``, negatives ``-``, and anything that occurs more than once in the expanded batch is marked
    with its multiplicity. If there is no sentinel among the first 16 images, the first one takes the last place.
    ``texts``: the caption for each id; ``copies``: its multiplicity. With several processes, only the rows of the
    calling one are shown. Needs no display.
    """
    from PIL import Image, ImageDraw

    labels = jax.tree.map(_local_rows, batch.image_labels)
    rows = _shown(labels)
    pictures = _pictures(batch, rows)
    longest = max(max(picture.shape[:2]) for picture in pictures)
    side = min(longest, _LONGEST) * max(1, _SIDE // longest)
    fonts = _fonts()
    cards = [_wrapped(_card(labels, row, texts, copies)) for row in rows]
    text_width = max(fonts[bold].getlength(text) for card in cards for text, _, bold in card)
    height = max([side, *(len(card) * _LINE for card in cards)]) + 2 * _MARGIN
    width = side + math.ceil(text_width) + 3 * _MARGIN
    columns = min(_COLUMNS, len(rows))
    page = Image.new("RGB", (columns * width, math.ceil(len(rows) / columns) * height), "white")
    draw = ImageDraw.Draw(page)
    for place, (picture, card) in enumerate(zip(pictures, cards, strict=True)):
        x, y = place % columns * width + _MARGIN, place // columns * height + _MARGIN
        tall, wide = (max(1, n * side // longest) for n in picture.shape[:2])
        draw.rectangle((x - 1, y - 1, x + wide, y + tall), outline="#d0d7de")  # white images have an edge too
        page.paste(Image.fromarray(picture).resize((wide, tall), Image.Resampling.NEAREST), (x, y))
        _write_lines(draw, (x + side + _MARGIN, y), card, fonts)
    png = io.BytesIO()
    page.save(png, "PNG")
    storage.write(epath.Path(file), png.getvalue())


def _pictures(batch: Batch, rows: Sequence[int]) -> list[np.ndarray]:
    """uint8 [H, W, 3] of some of the rows."""
    images = jax.tree.map(_local_rows, batch.images)
    if not isinstance(images, Patches):
        return [images[row] for row in rows]
    return [naflex.joined(images.patches_IPV[row], *images.grid_I2[row].tolist()) for row in rows]


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


def _card(labels: ImageLabels, row: int, texts: Sequence[str], copies: Sequence[float] | np.ndarray) -> list[_Line]:
    """The lines next to one image."""
    name = "sentinel (blank negative image)" if _is_sentinel(labels)[row] else f"image {row}"
    lines: list[_Line] = [(name + _times(float(labels.mult_I[row])), _INK, True)]
    for ids, mark, colour in ((labels.positives_IK, "+", _POSITIVE), (labels.negatives_IK, "\u2212", _NEGATIVE)):
        sampled: list[int] = ids[row][ids[row] >= 0].tolist()
        for caption in sampled:
            text = f"{mark} {_printable(texts[caption])}{_times(float(copies[caption]))}"
            lines.append((text, colour, False))
    return lines


def _times(multiplicity: float) -> str:
    return "" if multiplicity == 1 else f"  \u00d7{multiplicity:g}"


def _printable(text: str) -> str:
    """``text`` on one line, with ``\\x1b`` or ``\\ud800`` for characters that cannot be drawn."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def _fonts() -> tuple["FreeTypeFont", "FreeTypeFont"]:
    """Regular and bold DejaVu Sans, which Matplotlib ships: Latin, Greek, Cyrillic, Arabic and more. Other
    characters are drawn as boxes."""
    import matplotlib
    from PIL import ImageFont

    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    regular, bold = (
        ImageFont.truetype(f"{folder}/{name}.ttf", 14, layout_engine=ImageFont.Layout.BASIC)
        for name in ("DejaVuSans", "DejaVuSans-Bold")
    )
    return regular, bold


def _wrapped(lines: list[_Line]) -> list[_Line]:
    """The same lines, wrapped to fit."""
    return [
        (part, colour, bold)
        for text, colour, bold in lines
        for part in textwrap.wrap(text, _CHARACTERS, subsequent_indent="   ")
    ]


def _write_lines(
    draw: "ImageDraw", corner: tuple[int, int], lines: list[_Line], fonts: tuple["FreeTypeFont", "FreeTypeFont"]
) -> None:
    x, y = corner
    for text, colour, bold in lines:
        draw.text((x, y), text, fill=colour, font=fonts[bold])
        y += _LINE
