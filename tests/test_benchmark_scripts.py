"""The benchmark scripts run, on a tiny model and few images, and compare like with like."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "perf"))

import objectives as objectives_benchmark
import pipeline as pipeline_benchmark

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("hard", ["sentinel", "mined"])
def test_every_way_of_the_training_step_has_the_same_loss(hard):
    args = argparse.Namespace(small=True, batch=8, hard=hard, repeats=1)
    results = objectives_benchmark.measure_steps(args)
    assert [r.name for r in results] == ["naturel_jax", "naturel_jax, expanded", "transformers", "OpenCLIP"]
    np.testing.assert_allclose([r.loss for r in results], results[-1].loss, rtol=1e-4)


def test_captions_are_drawn_as_often_as_open_images_has_their_relation():
    items = objectives_benchmark.skewed_items(20_000, np.random.default_rng(0))
    relation = np.array([fact.split("|")[1] for fact in items.facts])[items.shows.values]
    rows = sum(objectives_benchmark.RELATIONS.values())
    for label in ("is", "at", "on"):
        assert (relation == label).mean() == pytest.approx(objectives_benchmark.RELATIONS[label] / rows, abs=0.01)


def test_the_pipeline_is_measured_beside_its_peers(tmp_path):
    paths = pipeline_benchmark.write_images(tmp_path, pipeline_benchmark.BATCH)
    rates = dict(pipeline_benchmark.measure(paths, 1, threads=[1], workers=[]))
    assert {"bare loop", "naturel_jax, 1 threads", "torch, 0 processes"} <= rates.keys()
