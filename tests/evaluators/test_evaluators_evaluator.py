"""The evaluator of training runs, against the encoder it uses."""

import dataclasses
import logging

import numpy as np
import pytest
from etils import epath

from naturel_jax.benchmarks import retrieval, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.data.seen import identity
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.evaluators import results
from naturel_jax.evaluators.embed import Encoder, cosines
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.evaluators.held_out import count_overlaps, hold_out
from tests.helpers import benchmark_files
from tests.helpers.tiny_models import CAPTIONS, items, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")


def benchmarks() -> list[Benchmark]:
    first = Benchmark("first", tuple(items(13)), rules.pair, (Metric("first/all", "right"),))
    unreadable = Item("bad", (Image("broken", lambda: b"not an image"),), ("a", "b"))
    metrics = (Metric("second/all", "right"),)
    return [first, dataclasses.replace(first, name="second", items=(unreadable, *items(4)), metrics=metrics)]


def test_scores_follow_from_the_cosines(caplog):
    model, params, processor = tiny()
    evaluator = Evaluator(model, processor, benchmarks(), batch_size=4)
    scores = evaluator.scores(params)
    embedder = Encoder(model, processor, batch_size=4).with_params(params)
    for name, number in (("first", 13), ("second", 4)):
        right = [matrix[0, 0] > matrix[0, 1] for matrix in cosines(items(number), embedder)[1]]
        assert scores[f"{name}/all"] == pytest.approx(np.mean(right))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "second: item bad: image broken: not a readable" in warnings[0]


def test_images_that_are_left_out_stay_in_the_gallery(tmp_path):
    """Otherwise a model that was trained on some of the images would have an easier task than its base."""
    model, params, processor = tiny()
    images = [(str(n), Image(f"image {n}", lambda n=n: benchmark_files.png(n)), [CAPTIONS[n % 4]]) for n in range(4)]
    whole = retrieval.benchmark("photos", images, None, [])
    embedder = Encoder(model, processor, batch_size=4).with_params(params)
    outcomes = whole.outcomes(whole.items, cosines(whole.items, embedder)[1])
    evaluator = Evaluator(model, processor, [whole.held_out({"0", "1"})], batch_size=4)
    scores, _ = evaluator.scores_with_intervals(params, epath.Path(tmp_path), "m", "")
    assert evaluator.scores(params) == scores and scores.keys() == {metric.name for metric in whole.metrics}
    for name, score in scores.items():
        assert score == pytest.approx(np.mean(outcomes[name.removeprefix("photos/")][2:]))


def test_how_items_left_out_were_found(tmp_path):
    """One image was trained on, which every fifth item shows."""
    model, params, processor = tiny()
    trained_on = TrainedOn.of([], [identity.look(benchmark_files.png(0), perceptual=False)], images=2)
    kept = [hold_out(benchmark, trained_on) for benchmark in benchmarks()]
    overlaps = {benchmark.name: count_overlaps(benchmark, trained_on) for benchmark in kept}
    evaluator = Evaluator(model, processor, kept, overlaps=overlaps)
    ways = {"images": 2, "read": 1, "name": 0, "look": 0}
    assert evaluator.found() == {
        "first": {"items": 10, "bytes": 3, **ways},
        "second": {"items": 4, "bytes": 1, **ways},
    }
    assert Evaluator(model, processor, benchmarks()).found() == {
        "first": {"items": 13},
        "second": {"items": 5},
    }
    evaluator.scores_with_intervals(params, epath.Path(tmp_path), "m", "")
    written = {result.benchmark: result.found for result in results.load(tmp_path)}
    assert written == {"first": {"bytes": 3, **ways}, "second": {"bytes": 1, **ways}}


def test_subset_of_benchmarks():
    model, params, processor = tiny()
    evaluator = Evaluator(model, processor, benchmarks(), batch_size=4)
    assert set(evaluator.scores(params, ["first"])) == {"first/all"}
    assert evaluator.scores(params, []) == {}
    with pytest.raises(ValueError, match=r"\['third'\] are not among first, second"):
        evaluator.scores(params, ["first", "third"])
