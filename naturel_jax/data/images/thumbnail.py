"""Small images for pages."""

import io
from typing import NamedTuple

from PIL import Image as PilImage

from naturel_jax.data.images.decode import cropped, open_image

SMALL = 160  # pixels; images up to this size are PNGs, which pages enlarge without smoothing


class Thumbnail(NamedTuple):
    """An encoded image, its format, and the size of the original."""

    data: bytes
    form: str
    width: int
    height: int


def thumbnail(data: bytes, side: int, box: tuple[int, int, int, int] | None = None) -> Thumbnail:
    """``data``, or its crop to ``box``, in at most ``side`` x ``side`` pixels. Raises ValueError for what is not an
    image, and a box with too many pixels."""
    opened = open_image(data)
    opened = cropped(opened, box, len(data)) if box else opened
    width, height = opened.size
    form = "png" if max(width, height) <= SMALL else "jpeg"
    opened.thumbnail((side, side), PilImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    opened.save(buffer, form, quality=82)
    return Thumbnail(buffer.getvalue(), form, width, height)
