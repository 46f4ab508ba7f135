"""Decoding, cropping and resizing of training images."""

import io

import numpy as np
import pytest
from caption_groups import jpeg
from PIL import Image

from naturel_jax.data.augment import augment, sides
from naturel_jax.data.boxes import Box


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
    image, png = Image.open(io.BytesIO(jpeg(width=300, height=200))), io.BytesIO()
    image.save(png, form, quality=95)
    box = Box(40, 30, 150, 120)
    part = Image.open(png).crop((40, 30, 190, 150)).resize((48, 48), Image.Resampling.BOX)
    assert np.abs(augmented(png.getvalue(), 48, box) - np.asarray(part, float)).mean() < 2
    mirrored = augmented(png.getvalue(), 48, box._replace(mirrored=True))
    np.testing.assert_array_equal(mirrored, augmented(png.getvalue(), 48, box)[:, ::-1])


def test_decompression_bomb_is_rejected_before_decoding():
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60" * 2  # height and width of 60,000
    with pytest.raises(ValueError, match="60000 x 60000"):
        sides(bytes(data))
