"""The suites of docs/lab.md."""

from unittest import mock

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from naturel_jax import config as c
from naturel_jax.cli import suite
from naturel_jax.configs import lab
from naturel_jax.losses.batch import ImageLabels
from naturel_jax.losses.objectives import OBJECTIVES


def test_labels_that_are_wrong_on_purpose_are_those_that_they_stand_for() -> None:
    """Of four images with two positives and two negatives each, whose labels are written as dense matrices: captions
    in blocks (all first positives, all second, all first negatives, all second), labels by image."""
    number, each = 4, 4
    ids_IK = np.arange(number * each).reshape(number, each)  # an image's captions: two positives, two negatives
    nothing = np.zeros((number, 0), np.int32)
    images = ImageLabels(np.ones(number, np.float32), ids_IK[:, :2], ids_IK[:, 2:], nothing)

    captions_U = np.concatenate(list(ids_IK.T))
    label_IU = np.repeat(np.eye(number), each, axis=1) * np.tile([1, 1, 0, 0], number)
    mixed = lab.mixed_up(images)
    for i in range(number):
        assert_array_equal(np.sort(mixed.positives_IK[i]), np.sort(captions_U[label_IU[i] > 0]))
    assert (mixed.positives_IK[0] == ids_IK[:2, 0]).all()  # the first positives of images 0 and 1

    assert_array_equal(lab.first_positive(images).positives_IK, ids_IK[:, :1])


@pytest.mark.parametrize("name", ["siglip_tp", "methods", "recipes"])
def test_suite_loads_and_its_rows_have_names_of_their_own(name: str) -> None:
    with mock.patch.dict(OBJECTIVES):  # they would be choices in other tests, too
        runs = c.load(lab.get_config(name)).runs
    assert set(suite.row_names(runs).values()) == {run.name for run in runs.values()}
