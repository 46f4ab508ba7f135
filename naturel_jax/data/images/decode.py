"""Opens encoded images, wherever they come from."""

import contextlib
import io
from collections.abc import Iterator

from PIL import Image

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import MAX_PIXELS

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that call other programs


@contextlib.contextmanager
def decoded(data: bytes) -> Iterator[Image.Image]:
    """The image in its own mode, its size checked before its pixels are decoded. Makes every error a UserError."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"image of {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
        yield image
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise UserError(f"not a readable image ({len(data)} bytes): {error}") from error


def without_transparent_color(image: Image.Image) -> Image.Image:
    """Pillow would drop it too when it converts the image to RGB, but warn about each image."""
    image.info.pop("transparency", None)
    return image


def open_image(data: bytes) -> Image.Image:
    """An RGB image from encoded bytes, without its alpha channel. Raises UserError."""
    with decoded(data) as image:
        return without_transparent_color(image).convert("RGB")
