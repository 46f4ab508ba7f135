"""Opens encoded images, wherever they come from. What an image costs is limited by its size in bytes."""

import contextlib
import io
import math
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import MAX_SIDE, check_profiles, check_scans, jpeg_cost, most_pixels, without_tags

# How the names of files in these formats end.
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that call other programs
_PLAIN = (b"P1", b"P2", b"P3")  # Pillow reads their digits in Python, in quadratic time if there are comments
PngImagePlugin.MAX_TEXT_MEMORY = 8 << 20  # texts beside the pixels, unpacked; Pillow's limit is 64 MB

# Bytes of memory for each pixel: Pillow's, and those that a format's decoder needs beside them.
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
_DECODERS = {"WEBP": 12, "TIFF": 4}
_AS_ARRAY = 3
_ROWS = 256  # of an image that become an array at a time

_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
# TIFF's types -> bytes.
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

_TILE = (322, 323)  # tags: width and height of a tile
_PARTS = (273, 324)  # tags: where strips and tiles are, of which 50,000 take Pillow 17 MB and 0.3 s
_MOST_PARTS = 50_000
_LISTS = (34_665, 34_853, 40_965)  # tags: where further tags are
_WHOLE = {3: "H", 4: "I", 13: "I"}  # types of one whole number
_WHOLE_BIG = _WHOLE | {16: "Q", 18: "Q"}


@contextlib.contextmanager
def decoded(data: bytes) -> Iterator[Image.Image]:
    """The image in its own mode, its size checked before its pixels are decoded. Makes every error a UserError."""
    try:
        in_tile = _check_tags(data)
        if data[:2] in _PLAIN:
            raise UserError("image is a plain PPM, PGM or PBM, in decimal digits; save it as a binary one")
        check_profiles(data)
        image = Image.open(io.BytesIO(without_tags(data)), formats=_FORMATS)
        most = most_pixels(len(data), _cost(image, data))
        if image.width * image.height > most or in_tile > most:
            tile = f", in tiles of {in_tile:,}," if in_tile else ""
            raise UserError(
                f"image of {image.width} x {image.height} pixels{tile} in {len(data):,} bytes; the limit for so many "
                f"bytes is {most:,} pixels"
            )
        if max(image.size) > MAX_SIDE:
            raise UserError(f"image of {image.width} x {image.height} pixels; the limit is {MAX_SIDE:,} on a side")
        yield image
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)  # it names an object in memory
        reason = f"expected {', '.join(_FORMATS)}" if unknown else error
        raise UserError(f"not a readable image ({len(data)} bytes): {reason}") from error


def _cost(image: Image.Image, data: bytes) -> int:
    """Bytes of memory that a pixel takes until it is RGB, in an array."""
    if image.format == "JPEG":
        check_scans(data)
        return jpeg_cost(data, image.mode == "L") + (0 if image.mode == "RGB" else 4)
    stored = _MODES.get(image.mode, 4)
    as_rgb = {"RGB": 0, "LA": 8, "PA": 8}.get(image.mode, 4)  # those with transparency are RGBA on the way
    as_rgb += 4 if "transparency" in image.info else 0
    return max(stored + as_rgb, 4 + _AS_ARRAY) + _DECODERS.get(image.format or "", 0)


def _check_tags(data: bytes) -> int:
    """The pixels of a TIFF's tile, which is decoded whole; 0 for an image without tiles. Raises UserError for a TIFF
    whose tags, Exif's and others' included, have more bytes together than the file: Pillow copies each, and any number
    may be in the same place; and for one in too many strips or tiles."""
    if not (order := _BYTE_ORDERS.get(data[:2])):
        return 0
    big = data[2:4] in (b"+\0", b"\0+")
    offset, number, entry, size = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    width = struct.calcsize(offset)  # of what an entry ends with: one number, or where several are
    lists, total, sides = [struct.unpack_from(order + offset, data, 8 if big else 4)[0]], 0, dict.fromkeys(_TILE, 0)
    for start in lists:  # it grows
        (count,) = struct.unpack_from(order + number, data, start)
        first = start + struct.calcsize(order + number)
        for place in range(first, min(first + count * size, len(data) - size + 1), size):
            tag, kind, values = struct.unpack_from(order + entry, data, place)
            total += values * _TAG_BYTES.get(kind, 1)
            if tag in _PARTS and values > _MOST_PARTS:
                raise UserError(
                    f"not a readable image ({len(data)} bytes): {values:,} parts, more than {_MOST_PARTS:,}"
                )
            if tag not in sides and tag not in _LISTS:
                continue
            if values != 1 or not (whole := (_WHOLE_BIG if big else _WHOLE).get(kind)):
                raise UserError(f"not a readable image ({len(data)} bytes): tag {tag} is no whole number")
            (value,) = struct.unpack_from(order + whole, data, place + size - width)
            if tag in sides:  # of several, libtiff takes the first and Pillow the last
                sides[tag] = max(sides[tag], value)
            else:
                lists.append(value)
        if len(lists) > 1 + len(_LISTS):
            raise UserError(f"not a readable image ({len(data)} bytes): its tags are in {len(lists):,} places")
    if total > len(data):
        raise UserError(f"not a readable image ({len(data)} bytes): tags of {total:,} bytes")
    return math.prod(sides.values())


def cropped(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    """The part of an image in ``box`` (left, top, right, bottom), which is black where it is beyond the image. Raises
    UserError for one with more pixels than the image, and than ``size`` bytes may have."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width * height > (most := max(image.width * image.height, most_pixels(size, 4 + _AS_ARRAY))):
        raise UserError(f"box of {width:,} x {height:,} pixels in an image of {size:,} bytes; the limit is {most:,}")
    return image.crop(box)


def without_transparent_color(image: Image.Image) -> Image.Image:
    """Pillow would drop it too when it converts the image to RGB, but warn about each image."""
    image.info.pop("transparency", None)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, not copied if it is; Pillow would."""
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(data: bytes) -> Image.Image:
    """An RGB image from encoded bytes, without its alpha channel. Raises UserError."""
    with decoded(data) as image:
        image = to_rgb(without_transparent_color(image))
        image.load()
        return image


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] from an RGB image; ``np.asarray`` would need three times its memory."""
    array = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        array[top : top + _ROWS] = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
    return array
