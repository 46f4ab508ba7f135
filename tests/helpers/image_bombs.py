"""Images that cost far more than their size."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from tests.helpers.image_files import encoded

Bomb = Callable[[random.Random, bytes], bytes]  # from a sound file


def _flat(form: str) -> Bomb:
    """One color: large, or a strip."""

    def flat(rng: random.Random, sound: bytes) -> bytes:
        sides = rng.choice(
            ((8000, 8000), (5000, 3000), (2500, 2500), (1, 20_000), (60_000, 1), (3, 60_000), (900, 16_000))
        )
        if form == "PNG" and rng.random() < 0.2:
            sides = (1, 7_000_000)
        if form == "WEBP":
            sides = (min(sides[0], 16_383), min(sides[1], 16_383))
        modes = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "P", "LA", "1", "I;16"), "WEBP": ("RGB", "RGBA")}
        mode = rng.choice(modes.get(form, ("RGB", "L")))
        options: dict[str, Any] = {
            "JPEG": {"progressive": rng.random() < 0.5},
            "WEBP": {"lossless": rng.random() < 0.5},
        }.get(form, {})
        options |= {"compression": rng.choice(("tiff_deflate", "tiff_lzw"))} if form == "TIFF" else {}
        if form in ("BMP", "PPM"):
            sides = (min(sides[0], 3000), min(sides[1], 3000))
        return encoded(Image.new(mode, sides), form, **options)

    return flat


def _comments(rng: random.Random, sound: bytes) -> bytes:
    """A pixel in decimal digits, after comments."""
    return b"P3 1 1 255\n" + b"#\n" * 500_000 + b"0 0 0\n"


def _tags(rng: random.Random, sound: bytes) -> bytes:
    """A TIFF whose tags are all in one place."""
    count, size = 3000, 200_000
    entries = b"".join(struct.pack("<HHII", 1000 + n, 1, size, 8) for n in range(count))
    start = 8 + size
    return b"II*\0" + struct.pack("<I", start) + bytes(size) + struct.pack("<H", count) + entries + bytes(4)


def tags_of_exif(rng: random.Random, sound: bytes) -> bytes:
    """The sound TIFF, with Exif tags that are all in one place."""
    (start,) = struct.unpack_from("<I", sound, 4)
    (count,) = struct.unpack_from("<H", sound, start)
    others = len(sound) + 200_000
    entries = b"".join(struct.pack("<HHII", 1000 + n, 1, 200_000, len(sound)) for n in range(3000))
    exif = struct.pack("<H", 3000) + entries + bytes(4)
    main = struct.pack("<H", count + 1) + sound[start + 2 : start + 2 + 12 * count]
    main += struct.pack("<HHII", 34_665, 4, 1, others) + bytes(4)
    head = sound[:4] + struct.pack("<I", others + len(exif))
    return head + sound[8:] + bytes(200_000) + exif + main


def _tile(rng: random.Random, sound: bytes) -> bytes:
    """A TIFF of few pixels, in one large tile."""
    side, packed = 8192, zlib.compress(bytes(8192 * 8192))
    sizes = {256: 64, 257: 64, 322: side, 323: side, 324: 8, 325: len(packed)}
    others = {258: 8, 259: 8, 262: 1, 277: 1}  # 8 bits, deflate, black is 0, one sample
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted((sizes | others).items())]
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    return head + packed + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _scans(rng: random.Random, sound: bytes) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 300 + data[-2:]


def first_of_two(rng: random.Random, sound: bytes) -> bytes:
    """The same, as the first image of an MPO."""
    fields = struct.pack("<HHI4sHHIIHHII", 0xB000, 7, 4, b"0100", 0xB001, 4, 1, 2, 0xB002, 7, 32, 50)
    body = b"MPF\0II*\0" + struct.pack("<IH", 8, 3) + fields + bytes(4 + 32)
    segment = b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    return segment.join((b"\xff\xd8", _scans(rng, sound)[2:]))


def index_of_images(rng: random.Random, sound: bytes) -> bytes:
    """A JPEG that says that others follow, in tags that are all in one place."""
    entries = b"".join(struct.pack("<HHII", n, 1, 65_000, 8) for n in range(1, 5000))
    body = b"MPF\0II*\0" + struct.pack("<IH", 8, 5000) + struct.pack("<HHII", 0xB001, 4, 1, 2) + entries + bytes(5000)
    return sound[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + sound[2:]


def _separate(rng: random.Random, sound: bytes) -> bytes:
    """A JPEG, not progressive, with a scan for each color."""
    data = encoded(Image.new("L", (3600, 3600)), "JPEG")
    frame, scan = data.index(b"\xff\xc0\0\x0b"), data.index(b"\xff\xda\0\x08\x01")
    colors = b"".join(bytes((color, 0x11, 0)) for color in (1, 2, 3))
    scans = (data[scan : scan + 5] + bytes((color,)) + data[scan + 6 : -2] for color in (1, 2, 3))
    header = data[:frame] + b"\xff\xc0\0\x11" + data[frame + 4 : frame + 9] + b"\x03" + colors
    return header + data[frame + 13 : scan] + b"".join(scans) + data[-2:]


def three_of_four(rng: random.Random, sound: bytes) -> bytes:
    """A JPEG of four colors, not progressive, with one scan, of three of them."""
    width, height = 2496, 2624

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    def colors(count: int, *rest: int) -> bytes:
        return bytes([count]) + b"".join(bytes([color, *rest]) for color in range(1, count + 1))

    code = bytes([1] + [0] * 15) + b"\0"  # a Huffman table of one code
    frame = b"\x08" + struct.pack(">HH", height, width) + colors(4, 0x11, 0)
    blocks = (width // 8) * (height // 8)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(0xC0, frame),
            segment(0xC4, b"\x00" + code),
            segment(0xC4, b"\x10" + code),
            segment(0xDA, colors(3, 0) + b"\0\x3f\0"),
            bytes(-(-blocks * 2 * 3 // 8) + 2),
            b"\xff\xd9",
        ]
    )


def _exif(rng: random.Random, sound: bytes) -> bytes:
    """A JPEG whose Exif tags are all in one place."""
    part = _tags(rng, sound)
    chunks = [part[n : n + 65_000] for n in range(0, len(part), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(chunk) + 8) + b"Exif\0\0" + chunk for chunk in chunks]
    return sound[:2] + b"".join(segments) + sound[2:]


def _with_chunks(png: bytes, kind: bytes, count: int) -> bytes:
    """The PNG with so many more chunks that unpack to a megabyte each."""
    body = b"k\0\0" + zlib.compress(b"a" * 1_000_000)
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk * count + png[33:]


def _texts(rng: random.Random, sound: bytes) -> bytes:
    return _with_chunks(sound, b"zTXt", 60)


def profiles(rng: random.Random, sound: bytes) -> bytes:
    """A PNG with colour profiles."""
    return _with_chunks(sound, b"iCCP", 4000)


# Format -> its bombs.
IMAGE_BOMBS: dict[str, Sequence[Bomb]] = {
    **{form: (_flat(form),) for form in ("GIF", "BMP", "WEBP")},
    "PPM": (_flat("PPM"), _comments),
    "JPEG": (_flat("JPEG"), _scans, _exif, _separate, three_of_four, first_of_two, index_of_images),
    "PNG": (_flat("PNG"), _texts, profiles),
    "TIFF": (_flat("TIFF"), _tags, tags_of_exif, _tile),
}
