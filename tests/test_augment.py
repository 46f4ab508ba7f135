"""Cropping and mirroring of training images."""

import io

import numpy as np
import pytest
from caption_groups import jpeg
from PIL import Image
from scipy.stats import chisquare

from naturel_jax.data.augment import Augment, random_box


def augmented(augment: Augment, data: bytes, mirror: bool = False, seed: int = 0) -> np.ndarray:
    out = np.empty((augment.size, augment.size, 3), np.uint8)
    augment(data, mirror, np.random.default_rng(seed), out)
    return out


def test_augmentation_is_deterministic_and_mirrors_half_of_the_images():
    augment, data = Augment(32, (0.5, 1.0)), jpeg()
    crops = [augmented(augment, data, seed=n) for n in range(40)]
    assert len({crop.tobytes() for crop in crops}) > 35  # a few boxes may coincide
    mirrored = 0
    for n, crop in enumerate(crops):
        np.testing.assert_array_equal(crop, augmented(augment, data, seed=n))
        other = augmented(augment, data, mirror=True, seed=n)
        assert np.array_equal(other, crop) or np.array_equal(other, crop[:, ::-1])
        mirrored += np.array_equal(other, crop[:, ::-1])
    assert 10 <= mirrored <= 30


@pytest.mark.parametrize("side", [96, 100, 192, 400])
def test_full_crop_is_the_resized_image(side):
    """Scale 1 and the image's own aspect ratio allow only the full crop, whatever the scale of JPEG decoding."""
    data = jpeg(width=side, height=side)
    crop = augmented(Augment(48, (1.0, 1.0), (1.0, 1.0)), data)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((48, 48), Image.Resampling.BOX), float)
    assert np.abs(crop - expected).mean() < 2


def test_crop_areas_are_uniform_over_the_scale():
    """As in torchvision's RandomResizedCrop, the area is uniform over the scale and the aspect ratio within bounds."""
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(400, 400, (0.4, 0.8), (3 / 4, 4 / 3), rng) for _ in range(2000)])
    left, top, width, height = boxes.T
    shares, ratios = width * height / 400**2, width / height
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 400).all() and (top + height <= 400).all()
    assert shares.min() > 0.39 and shares.max() < 0.81 and ratios.min() > 0.74 and ratios.max() < 1.35
    assert chisquare(np.histogram(shares, 4, (0.4, 0.8))[0]).pvalue > 1e-4


def test_decompression_bomb_is_rejected_before_decoding():
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60" * 2  # height and width of 60,000
    with pytest.raises(ValueError, match="60000 x 60000"):
        augmented(Augment(24, (0.9, 1.0)), bytes(data))
