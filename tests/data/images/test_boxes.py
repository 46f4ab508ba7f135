"""Random boxes of a batch against those of one image after another, and their distribution."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from naturel_jax.data.images.boxes import Boxes, only_square, random_boxes
from naturel_jax.data.random.draws import AUGMENT, Draws

SIDES = np.random.default_rng(0).integers(1, 700, (300, 2))


def boxes(sides: np.ndarray, scale: tuple[float, float], mirror: bool = True) -> Boxes:
    draws = Draws(7, AUGMENT, np.arange(len(sides)))
    return random_boxes(*sides.T, np.full(len(sides), mirror), scale, draws)


def random_resized_crop(width: int, height: int, scale: tuple[float, float], drawn: list[float]):
    """torchvision's, but for what it does when all attempts fail; the first three numbers drawn are for the place."""
    for of_area, of_aspect in zip(drawn[3::2], drawn[4::2], strict=True):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * of_area)
        aspect = math.exp(math.log(3 / 4) + math.log(4 / 3 / (3 / 4)) * of_aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(drawn[1] * (width - w + 1)), math.floor(drawn[2] * (height - h + 1)), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (0.3, 0.3)])
def test_boxes_of_a_batch_are_those_of_each_image(scale):
    may_mirror, draws = np.arange(len(SIDES)) % 3 > 0, Draws(7, AUGMENT, np.arange(len(SIDES)))
    batch = random_boxes(*SIDES.T, may_mirror, scale, draws)
    for n, (box, drawn) in enumerate(zip(batch.each(), draws.uniform(23).tolist(), strict=True)):
        assert box[:4] == random_resized_crop(*SIDES[n].tolist(), scale, drawn)
        assert box.mirrored == bool(may_mirror[n] and drawn[0] < 0.5)


def test_areas_and_places_are_uniform_and_half_are_mirrored():
    batch = boxes(np.full((2000, 2), 400), (0.4, 0.8))
    shares, ratios = batch.width_B * batch.height_B / 400**2, batch.width_B / batch.height_B
    assert (batch.left_B >= 0).all() and (batch.left_B + batch.width_B <= 400).all()
    assert (batch.top_B >= 0).all() and (batch.top_B + batch.height_B <= 400).all()
    assert shares.min() > 0.39 and shares.max() < 0.81 and ratios.min() > 0.74 and ratios.max() < 1.35
    places = ((batch.left_B, batch.width_B), (batch.top_B, batch.height_B))
    columns = [(shares - 0.4) / 0.4, *((start + 0.5) / (401 - side) for start, side in places)]
    for column in columns:
        assert chisquare(np.histogram(column, 4, (0, 1))[0]).pvalue > 1e-4
        counts = np.histogram2d(column, batch.mirrored_B, (4, 2), ((0, 1), (0, 1)))[0]
        assert chisquare(counts.ravel()).pvalue > 1e-4


def test_scale_of_one_is_the_largest_centred_square():
    batch = boxes(np.array([[400, 300], [301, 400], [50, 50]]), (1.0, 1.0), mirror=False)
    assert [box[:4] for box in batch.each()] == [(50, 0, 300, 300), (0, 49, 301, 301), (0, 0, 50, 50)]


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.5, 0.6)])
def test_images_too_narrow_for_other_boxes_get_the_square(scale):
    """Every other image has other boxes too, if they are drawn often enough."""
    short = 90
    for long in range(short, 4 * short):
        repeated = np.tile([long, short] if long % 2 else [short, long], (40, 1))
        square = boxes(repeated, scale)
        same = ((square.width_B == short) & (square.height_B == short)).all()
        assert same or not only_square(*repeated[0].tolist(), scale)
    widest = short * 4 / 3 / scale[0]
    assert only_square(math.ceil(widest * 1.05), short, scale) and not only_square(math.floor(widest), short, scale)
    assert only_square(100, 90, (1.0, 1.0))
