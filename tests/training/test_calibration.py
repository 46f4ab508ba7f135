import dataclasses

import jax
import numpy as np
import optax
import pytest

from naturel_jax import config as c
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.training import optim
from naturel_jax.training.calibration import calibrated
from naturel_jax.training.loss import Loss
from naturel_jax.training.train import State
from tests.helpers import tiny_config


@pytest.mark.parametrize("pattern", ["logit_.*", "image/.*"])
def test_a_bias_that_is_frozen_afterwards_is_calibrated(pattern):
    """Eight images and captions with all cosines 0: the logit is the bias, and its sigmoid the share of positives."""
    state, _ = calibrated_with(lr_multipliers=((pattern, 0.0),))
    assert float(state.params["logit_bias"]) == pytest.approx(np.log(1 / 7), abs=1e-3)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_an_optimizer_begins_from_the_new_bias(name):
    """Its state is that of a run with this bias from the start: Prodigy would take the difference for a distance that
    training has gone, and its rate would stay a thousand times too large."""
    state, tx = calibrated_with(name=name)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, tx.init(state.params))


def calibrated_with(**options) -> tuple[State, optax.GradientTransformation]:
    """The calibrated state of a run with these options of its optimizer, and this optimizer. All cosines are 0."""
    config, n = c.load(tiny_config.get_config("sigmoid")), np.arange(8, dtype=np.int32)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **options))
    none, ones = np.full((8, 1), -2, np.int32), np.ones(8, np.float32)
    eye = np.eye(16, dtype=np.float32)
    batch = Batch(eye[:8], eye[8:], ImageLabels(ones, n[:, None], none, none), CaptionLabels(ones, n, none))
    params = {name: jax.numpy.float32(2) for name in ("logit_scale", "logit_bias", "image/patch")}
    loss = Loss(config, None, (0, 1), params, jax.make_mesh((1, 1), ("data", "fsdp")))
    tx = optim.make_optimizer(config.optim, params, lambda step: 0.1)
    return calibrated(State(params, tx.init(params), None), loss, batch), tx
