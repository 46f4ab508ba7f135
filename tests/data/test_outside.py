"""An external loss and optimizer, each a function and one line, train in a run.

(Tests of external benchmarks, recipes and data sources, and model sizes are in test_benchmarks_outside.py,
test_datasets.py and test_weights_export.py.)
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.data import datasets
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.losses import objectives
from naturel_jax.models.two_tower import normalize
from naturel_jax.storage import read_json_lines
from naturel_jax.training import optim, run
from naturel_jax.training.start import make_start
from tests.helpers import tiny_config
from tests.helpers.worlds import data_dir


def alignment_loss(zimg_ID, zcap_UD, *, images, captions, **options):
    """Mean squared distance between an image and its first positive (alignment with alpha 2, arXiv 2005.10242)."""
    positive_I = images.positives_IK[:, 0]
    zpos_ID = zcap_UD[jnp.maximum(positive_I, 0)]
    weight_I = images.mult_I * (positive_I >= 0)
    return jnp.sum(weight_I * jnp.sum((zimg_ID - zpos_ID) ** 2, axis=1)) / jnp.sum(weight_I)


@pytest.fixture(scope="module", autouse=True)
def tables():
    objectives.OBJECTIVES["alignment"] = objectives.Objective(alignment_loss, needs_bias=False)
    optim.OPTIMIZERS["sign"] = lambda options: optax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))
    yield
    del objectives.OBJECTIVES["alignment"], optim.OPTIMIZERS["sign"]


def config() -> c.Config:
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    raw.duration, raw.eval.during, raw.checkpoint.every = "2 steps", {}, "1 steps"
    raw.objective.name, raw.optim.name = "alignment", "sign"
    raw.optim.update({"lr": 1e-3, "warmup": "0 steps", "weight_decay": 0.0, "clip_norm": 0.0, "schedule": "constant"})
    return c.load(raw)


@pytest.mark.slow
def test_external_loss_and_optimizer(tmp_path):
    settings, folder = config(), epath.Path(tmp_path)
    scores = run.run(settings, folder)
    assert set(scores) > {"naturel/simple", "naturel/complex"}
    logged = [row["train/loss"] for row in read_json_lines(folder / "metrics.jsonl") if "train/loss" in row]

    mesh = make_mesh(dataclasses.asdict(settings.mesh))
    sources = [datasets.open_source("naturel/tiny", settings.data.dir, "train")]
    start = make_start(settings, "", folder, sources, mesh)
    batch = next(run.make_training(settings, start, sources, mesh).pipeline.batches(0, 1))
    pixels = normalize(batch.images, start.processor.mean, start.processor.std)
    zimg_ID = np.asarray(start.model.encode_image(start.params, pixels), np.float64)
    zcap_UD = np.asarray(start.model.encode_text(start.params, batch.tokens), np.float64)
    pairs = [
        (zimg_ID[i], zcap_UD[p[0]]) for i, p in enumerate(np.asarray(batch.image_labels.positives_IK)) if p[0] >= 0
    ]
    expected = np.mean([np.sum((image - caption) ** 2) for image, caption in pairs])
    np.testing.assert_allclose(logged[0], expected, rtol=1e-5)
    assert logged[1] < logged[0]
