"""Photos as bytes: rejects files that are not complete photos, computes perceptual hashes, re-encodes for training."""

import dataclasses
import io
import re
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from tfds_naturel.common.files import check_regular

MAX_BYTES = 32 << 20
MAX_PIXELS = 64_000_000  # larger photos are rejected before their pixels are decoded
MAX_SIDE = 65_500  # pixels, of which a JPEG has no more; each row takes memory of its own besides its pixels
_BASE, _PER_BYTE = 48 << 20, 40  # bytes of memory for the pixels of any image, and for each byte of its file
_MAX_SCANS = 100  # of a progressive JPEG, each of which goes through the whole image; encoders write about ten
_MAX_PROFILES = 10  # of a PNG, each of which is unpacked; it may have one

_PNG = b"\x89PNG"  # first bytes of a file
_TAGS = re.compile(rb"(\xff\xe1..Exif|\xff\xe2..MPF)\0", re.DOTALL)
_PROGRESSIVE = re.compile(rb"\xff[\xc2\xca]")
_OF_SOME_COLORS = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02)")  # a scan of one or two
_OF_FOUR_COLORS, _OF_THREE = re.compile(rb"\xff[\xc0\xc1\xc9]\0\x14"), b"\xff\xda\0\x0c\x03"  # a frame, and a scan

_MIN_SIDE = 32
_MIN_CONTRAST = 2.0  # a photo whose 8-bit luminance has a lower standard deviation is a blank placeholder
_HASH_SIDE = 32
_PNG_COST = 14  # bytes of memory for each pixel of a PNG: as it is, as RGB, and as an array, which is written twice
_FOUR_COLORS = ("CMYK", "YCCK")  # of JPEGs that Pillow decodes, as it does PNGs: libjpeg-turbo makes no RGB of them


class BadPhoto(ValueError):
    """Not a usable photo. ``kind``: ``not_jpeg``, ``broken``, ``too_large``, ``too_small`` or ``blank``."""

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Photo:
    """A valid photo: its size in bytes and pixels, and its perceptual hash (64 bits)."""

    bytes: int
    width: int
    height: int
    phash: int


def most_pixels(size: int, cost: int) -> int:
    """Most pixels that are decoded from a file of ``size`` bytes, if each takes ``cost`` bytes of memory."""
    return min(MAX_PIXELS, (_BASE + _PER_BYTE * size) // cost)


def jpeg_cost(data: bytes, gray: bool) -> int:
    """Bytes of memory that a pixel of a JPEG takes; libjpeg keeps the coefficients of one with several scans: a
    progressive one, or colors each by themselves."""
    frame = _OF_FOUR_COLORS.search(data)  # what has three colors and is before it is a thumbnail
    three_of_four = frame and data.find(_OF_THREE, frame.end()) >= 0
    several = _PROGRESSIVE.search(data) or (not gray and (_OF_SOME_COLORS.search(data) or three_of_four))
    return 4 + (8 if several else 0)


def without_tags(data: bytes) -> bytes:
    """A JPEG in which Pillow finds no tags, of Exif or of several images: it would read them for the resolution and
    further images, which nothing here asks for, and copy each, of which any number may be in the same place."""
    return _TAGS.sub(rb"\1-", data)


def check_scans(data: bytes) -> None:
    """Raises ValueError for a JPEG with too many scans."""
    if (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ValueError(f"{scans:,} scans, more than {_MAX_SCANS}")


def check_profiles(data: bytes) -> None:
    """Raises ValueError for a PNG with too many colour profiles."""
    if data.startswith(_PNG) and (profiles := data.count(b"iCCP")) > _MAX_PROFILES:
        raise ValueError(f"{profiles:,} colour profiles, more than {_MAX_PROFILES}")


def inspect(data: bytes) -> Photo:
    """Decodes a JPEG at reduced size and returns its properties. Raises BadPhoto."""
    width, height, colorspace = _header(data)
    gray = _decode(data, colorspace, "GRAY", _HASH_SIDE)
    if gray.std() < _MIN_CONTRAST:
        raise BadPhoto("blank", f"standard deviation of luminance is only {gray.std():.2f} of 255")
    return Photo(len(data), width, height, phash(gray))


def inspect_file(path: Path) -> Photo:
    """``inspect`` for a file, of which nothing is read if it is too large. Raises BadPhoto, and UserError for a pipe or
    device."""
    check_regular(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadPhoto("too_large", f"{size:,} bytes, more than {MAX_BYTES:,}")
    return inspect(path.read_bytes())


def phash(gray: np.ndarray) -> int:
    """Perceptual hash of a luminance image uint8 [H, W] or [H, W, 1]: 64 bits, most significant bit first.

    The DCT hash of the `imagehash` library (``phash``): the 8 x 8 lowest frequencies at 32 x 32 pixels, each compared
    with their median. Copies of a photo differ in a few bits, different photos in about 32.
    """
    small = cv2.resize(gray.reshape(gray.shape[:2]), (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8]
    low[0] *= np.sqrt(2)  # imagehash's DCT is not orthonormal: constant rows and columns weigh more
    low[:, 0] *= np.sqrt(2)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def reencode(data: bytes, short_side: int, quality: int) -> bytes:
    """The photo as a baseline RGB JPEG without metadata, its short side at most ``short_side`` pixels.

    Orientation tags are ignored and dropped, since Open Images' boxes refer to the stored pixels. Raises BadPhoto.
    """
    width, height, colorspace = _header(data)
    rgb = _decode(data, colorspace, "RGB", short_side)
    return _encode(rgb, width, height, short_side, quality)


def to_jpeg(data: bytes, short_side: int, quality: int) -> bytes:
    """``reencode`` for a JPEG or PNG of a source other than Open Images. Raises BadPhoto."""
    if not data.startswith(_PNG):
        return reencode(data, short_side, quality)
    try:
        check_profiles(data)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.width * image.height > (most := most_pixels(len(data), _PNG_COST)):
            raise BadPhoto("too_large", f"{image.width} x {image.height} pixels, more than {most:,}")
        if max(image.size) > MAX_SIDE:
            raise BadPhoto("too_large", f"{image.width} x {image.height} pixels, more than {MAX_SIDE:,} on a side")
        rgb = np.asarray(image.convert("RGB"))
    except BadPhoto:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise BadPhoto("broken", f"{len(data):,} bytes: {error}") from error
    return _encode(rgb, image.width, image.height, short_side, quality)


def _encode(rgb: np.ndarray, width: int, height: int, short_side: int, quality: int) -> bytes:
    scale = min(1.0, short_side / min(width, height))
    size = round(width * scale), round(height * scale)
    if size != rgb.shape[1::-1]:
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="420")


def _header(data: bytes) -> tuple[int, int, str]:
    """Width, height and colour space. Raises BadPhoto for anything that can be detected before decoding."""
    if len(data) > MAX_BYTES:
        raise BadPhoto("too_large", f"{len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        header = simplejpeg.decode_jpeg_header(data)
        check_scans(data)
    except ValueError as error:
        raise BadPhoto("not_jpeg", f"{len(data):,} bytes starting with {data[:12]!r}: {error}") from error
    height, width, colorspace = int(header[0]), int(header[1]), header[2]
    cost = jpeg_cost(data, colorspace == "Gray") + (_PNG_COST - 4 if colorspace in _FOUR_COLORS else 0)
    if width * height > (most := most_pixels(len(data), cost)):
        raise BadPhoto("too_large", f"{width} x {height} pixels, more than {most:,}")
    if min(width, height) < _MIN_SIDE:
        raise BadPhoto("too_small", f"{width} x {height} pixels, fewer than {_MIN_SIDE} on a side")
    return width, height, colorspace


def _decode(data: bytes, colorspace: str, mode: str, side: int) -> np.ndarray:
    """uint8 [H, W, C], decoded at the smallest JPEG scale at which both sides have at least ``side`` pixels."""
    try:
        if colorspace in _FOUR_COLORS:
            image = Image.open(io.BytesIO(without_tags(data)), formats=["JPEG"])
            return np.asarray(image.convert("L" if mode == "GRAY" else mode))
        return simplejpeg.decode_jpeg(data, mode, min_height=side, min_width=side)
    except (ValueError, OSError) as error:
        raise BadPhoto("broken", f"{len(data):,} bytes: {error}") from error
