"""Decoding, cropping and resizing of training images."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from naturel_jax.data.images.augment import augment, resize, sides
from naturel_jax.data.images.boxes import Box
from tests.helpers.caption_groups import jpeg
from tests.helpers.image_files import encoded, photo


def augmented(data: bytes, size: int, box: Box) -> np.ndarray:
    out = np.empty((size, size, 3), np.uint8)
    augment(data, *sides(data), box, out)
    return out


@pytest.mark.parametrize("side", [96, 100, 192, 400])
def test_full_crop_is_the_resized_image(side):
    """Whatever the scale of JPEG decoding."""
    data = jpeg(width=side, height=side)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((48, 48), Image.Resampling.BOX), float)
    assert np.abs(augmented(data, 48, Box(0, 0, side, side)) - expected).mean() < 2


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_box_is_the_part_of_the_image(form):
    """Also mirrored."""
    data = encoded(Image.open(io.BytesIO(jpeg(width=300, height=200))), form, quality=95)
    box = Box(40, 30, 150, 120)
    part = Image.open(io.BytesIO(data)).crop((40, 30, 190, 150)).resize((48, 48), Image.Resampling.BOX)
    assert np.abs(augmented(data, 48, box) - np.asarray(part, float)).mean() < 2
    mirrored = augmented(data, 48, box._replace(mirrored=True))
    np.testing.assert_array_equal(mirrored, augmented(data, 48, box)[:, ::-1])


@pytest.mark.parametrize("sides", [(300, 300), (289, 431), (600, 225), (225, 226)])
def test_area_is_opencvs_of_the_same_bytes(sides):
    """Bit for bit, though it is computed from float32."""
    pixels, out = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8), np.empty((224, 224, 3), np.uint8)
    resize(pixels, False, out)
    np.testing.assert_array_equal(out, cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("factor", [1.05, 1.2, 9 / 7, 1.4, 1.5, 1.6])
def test_bilinear_is_as_near_to_pillows_bicubic_as_area(factor):
    """OpenCLIP crops with that filter."""
    side = round(224 * factor)
    image = Image.open(io.BytesIO(photo(side, side)))
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), float)
    area, bilinear = np.empty((2, 224, 224, 3), np.uint8)
    resize(np.asarray(image), False, area, "area")
    resize(np.asarray(image), False, bilinear, "bilinear")
    errors = [np.square(pixels - expected).mean() for pixels in (area, bilinear)]
    assert errors[1] < errors[0] < 10 if factor <= 1.5 else (area == bilinear).all()


def test_decompression_bomb_is_rejected_before_decoding():
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60" * 2  # height and width of 60,000
    with pytest.raises(ValueError, match="60000 x 60000"):
        sides(bytes(data))


@pytest.mark.parametrize("side", [448, 500, 672])
def test_large_images_are_averaged_as_small_ones_are(monkeypatch, side):
    """Without a copy of four times their memory."""
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    small, large = np.empty((2, 224, 224, 3), np.uint8)
    resize(pixels, False, small)
    monkeypatch.setattr("naturel_jax.data.images.augment._MOST_FLOATS", 0)
    resize(pixels, False, large)
    assert np.abs(small.astype(int) - large).max() <= 1, (small != large).mean()
