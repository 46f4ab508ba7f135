"""Opens encoded images from anywhere."""

import io

from PIL import Image

from tfds_naturel.errors import UserError
from tfds_naturel.photos import MAX_PIXELS

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # without those that call other programs


def open_image(data: bytes) -> Image.Image:
    """An RGB image from encoded bytes, its size checked before its pixels are decoded. Raises UserError."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"image of {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
        return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise UserError(f"not a readable image ({len(data)} bytes): {error}") from error
