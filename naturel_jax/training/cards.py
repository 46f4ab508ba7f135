"""Draws images next to lines of text, in one PNG: a batch, mistakes."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and drawn once in a run
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_COLUMNS = 2
_SIDE = 192  # smaller images are enlarged by the largest integer factor that does not exceed this
_MARGIN, _LINE = 16, 20  # pixels
_CHARACTERS = 52  # per line
POSITIVE, NEGATIVE, INK = "#1a7f37", "#cf222e", "#1f2328"
Line = tuple[str, str, bool]  # text, colour, bold


def enlarged(image: "Image") -> "Image":
    """``image``, enlarged by a whole factor if it is small."""
    factor = max(1, _SIDE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), resample=0)  # the nearest pixel


def draw(pictures: Sequence["Image"], texts: Sequence[Sequence[Line]]) -> bytes:
    """A PNG of ``pictures``, in two columns, each with its lines of text on its right. Needs no display."""
    from PIL import Image, ImageDraw

    fonts = _fonts()
    wrapped = [_wrapped(lines) for lines in texts]
    text_width = max(fonts[bold].getlength(text) for lines in wrapped for text, _, bold in lines)
    side = max(picture.width for picture in pictures)
    height = max([*(picture.height for picture in pictures), *(len(lines) * _LINE for lines in wrapped)]) + 2 * _MARGIN
    width = side + math.ceil(text_width) + 3 * _MARGIN
    columns = min(_COLUMNS, len(pictures))
    page = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    canvas = ImageDraw.Draw(page)
    for place, (picture, lines) in enumerate(zip(pictures, wrapped, strict=True)):
        x, y = place % columns * width + _MARGIN, place // columns * height + _MARGIN
        frame = (x - 1, y - 1, x + picture.width, y + picture.height)
        canvas.rectangle(frame, outline="#d0d7de")  # so that white images have an edge too
        page.paste(picture, (x, y))
        _write_lines(canvas, (x + side + _MARGIN, y), lines, fonts)
    png = io.BytesIO()
    page.save(png, "PNG")
    return png.getvalue()


def printable(text: str) -> str:
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


def _wrapped(lines: Sequence[Line]) -> list[Line]:
    """The same lines, wrapped to fit."""
    return [
        (part, colour, bold)
        for text, colour, bold in lines
        for part in textwrap.wrap(text, _CHARACTERS, subsequent_indent="   ")
    ]


def _write_lines(
    canvas: "ImageDraw", corner: tuple[int, int], lines: list[Line], fonts: tuple["FreeTypeFont", "FreeTypeFont"]
) -> None:
    x, y = corner
    for text, colour, bold in lines:
        canvas.text((x, y), text, fill=colour, font=fonts[bold])
        y += _LINE
