"""Photos: perceptual hashes, re-encoding, and rejection by kind."""

import collections
import io
import random

import cv2
import numpy as np
import pytest
import scipy.fft
import simplejpeg
from PIL import Image

from tests.helpers.image_bombs import three_of_four
from tests.helpers.image_files import encoded
from tests.helpers.open_images_files import photo
from tfds_naturel.common import photos


def test_phash_is_the_dct_hash():
    gray = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    low = scipy.fft.dctn(gray.astype(np.float64), type=2)[:8, :8]  # as in imagehash.phash, whose DCT is not normalized
    expected = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert f"{photos.phash(gray):064b}" == expected


def test_copies_of_a_photo_have_similar_hashes():
    original = photos.inspect(photo(1, 800, 600, quality=95))
    smaller = photos.inspect(photo(1, 320, 240, quality=60))
    assert (original.width, original.height) == (800, 600)
    assert (original.phash ^ smaller.phash).bit_count() <= 3
    distances = [(original.phash ^ photos.inspect(photo(n, 800, 600)).phash).bit_count() for n in range(2, 30)]
    assert min(distances) > 10


def test_photos_are_reencoded_to_the_short_side():
    data = photos.reencode(photo(1, 1024, 683, quality=95), short_side=288, quality=92)
    image = Image.open(io.BytesIO(data))
    assert image.size == (432, 288) and image.mode == "RGB"
    reference = Image.open(io.BytesIO(photo(1, 1024, 683, quality=95))).resize((432, 288), Image.Resampling.BOX)
    assert np.abs(np.asarray(image, float) - np.asarray(reference, float)).mean() < 3
    small = Image.open(io.BytesIO(photos.reencode(photo(1, 96, 64), short_side=288, quality=92)))
    assert small.size == (96, 64)


def test_reencoding_ignores_orientation_and_drops_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    data = encoded(Image.open(io.BytesIO(photo(1))), "JPEG", exif=exif)
    image = Image.open(io.BytesIO(photos.reencode(data, short_side=288, quality=92)))
    assert image.size == (96, 64) and not image.getexif()


def test_cmyk_and_gray_photos_become_rgb():
    for mode in ("CMYK", "L"):
        data = encoded(Image.open(io.BytesIO(photo(1))).convert(mode), "JPEG")
        assert photos.inspect(data).width == 96
        assert Image.open(io.BytesIO(photos.reencode(data, short_side=288, quality=92))).mode == "RGB"


def test_scans_of_some_colors_cost_as_much_as_progressive_ones():
    """libjpeg keeps the coefficients of both. A thumbnail, which has three colors, changes nothing."""
    cmyk = Image.open(io.BytesIO(photo(1))).convert("CMYK")
    plain, progressive = encoded(cmyk, "JPEG"), encoded(cmyk, "JPEG", progressive=True)
    thumbnail = b"\xff\xed" + (len(photo(2)) + 2).to_bytes(2, "big") + photo(2)
    costs = [photos.jpeg_cost(data, False) for data in (plain, plain[:2] + thumbnail + plain[2:], progressive)]
    assert costs[0] == costs[1] < costs[2] == photos.jpeg_cost(three_of_four(random.Random(0), b""), False)


def large_cmyk_photo() -> bytes:
    """Pillow takes 14 bytes for each pixel of these: 194 MB of memory for 0.7 MB of file."""
    return encoded(Image.new("CMYK", (900, 16_000)), "JPEG")


BAD_PHOTOS = {
    "not_jpeg": [b"", b"<html>", photo(1)[:100], cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()],
    "broken": [photo(1)[:-2], photo(1)[: len(photo(1)) // 2]],
    "too_small": [photo(1, 31, 64)],
    "too_large": [
        simplejpeg.encode_jpeg(np.zeros((10_000, 6_500, 1), np.uint8), colorspace="GRAY"),
        large_cmyk_photo(),
        bytes(33 << 20),
    ],
    "blank": [simplejpeg.encode_jpeg(np.full((64, 64, 3), 230, np.uint8))],
}


@pytest.mark.parametrize(("kind", "data"), [(kind, data) for kind, all_ in BAD_PHOTOS.items() for data in all_])
def test_bad_photos_are_rejected_by_kind(kind, data):
    with pytest.raises(photos.BadPhoto) as error:
        photos.inspect(data)
    assert error.value.kind == kind
    assert collections.Counter(str(error.value).split())[f"{kind}:"] == 1
