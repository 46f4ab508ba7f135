"""Blind baselines and confidence intervals, against closed forms."""

import dataclasses
import math

import numpy as np
import pytest

from naturel_jax.benchmarks import benchmark, rules
from naturel_jax.evaluators import blind, confidence


def bench(items, macro=None) -> benchmark.Benchmark:
    metric = benchmark.Metric("accuracy", "right", macro=macro)
    return benchmark.Benchmark("b", tuple(items), rules.pair, (metric,))


def test_blind_baselines_detect_text_bias():
    # The true caption is always longer and says "the dog", so words and length solve the benchmark; a norm that prefers
    # the false caption is always wrong.
    images = [benchmark.Image(f"image {n}", bytes) for n in range(40)]
    items = [benchmark.Item(str(n), (images[n],), (f"the dog {n} is here", f"a cat {n}")) for n in range(40)]
    solved = dataclasses.replace(bench(items), true_captions=1)
    norms = {caption: float(caption.startswith("a cat")) for item in items for caption in item.captions}
    results = blind.baselines(solved, items, [np.zeros((1, 2))] * 40, norms)
    expected = {"longer caption": 1, "shorter caption": 0, "n-grams": 1, "text norm": 0}
    assert {name: values["accuracy"] for name, values in results.items()} == expected
    assert blind.baselines(bench(items), items, [np.zeros((1, 2))] * 40, {}) == {}
    assert blind.text_only(solved) == {"accuracy": 1} and blind.text_only(bench(items)) == {}
    among_captions = [dataclasses.replace(item, caption_rows=True) for item in items]
    assert blind.text_only(dataclasses.replace(solved, items=tuple(among_captions))) == {}


def test_ngrams_are_not_fit_on_their_own_image():
    # All items share one image, so none of their captions are used for fitting, and true and false get equal odds.
    items = [benchmark.Item(str(n), (benchmark.Image("one", bytes),), (f"true {n}", f"false {n}")) for n in range(5)]
    assert all(odds[0] == odds[1] for odds in blind.ngrams(items, 1))


def test_ngram_log_odds_by_hand():
    # Two images in different folds. For each item, the other image has "up" in 1 of 1 true captions and in 0 of 1 false
    # ones.
    def item(name: str) -> benchmark.Item:
        return benchmark.Item(name, (benchmark.Image(name, bytes),), ("up", "down"))

    items = [next(one for n in range(99) if blind.fold_numbers([one := item(str(n))]) == [fold]) for fold in (0, 1)]
    up = math.log((2 / 3) / (1 / 3))  # (1 + 1) / (1 + 2) against (0 + 1) / (1 + 2)
    for odds in blind.ngrams(items, 1):
        assert odds == pytest.approx([3 * up, -3 * up]), (
            "the word, and its bigrams with the start and end; start and end alone carry no information"
        )


def test_folds_do_not_depend_on_where_the_files_are():
    def folds(folder: str) -> list[int]:
        images = [benchmark.Image(f"{folder}/{n}.jpg", bytes) for n in range(50)]
        items = [benchmark.Item(f"{n}/{k}", (images[n],), ("a", "b")) for n in range(50) for k in range(2)]
        return blind.fold_numbers(items)

    here = folds("/here")
    assert here == folds("/elsewhere") and here[::2] == here[1::2] and {*here} == {*range(blind.FOLDS)}


def test_bootstrap_interval_of_a_mean_matches_the_normal_interval():
    items = [benchmark.Item(str(n), (), ("a", "b")) for n in range(400)]
    right = np.arange(400) % 4 == 0  # 0.25
    low, high = confidence.intervals(bench(items), items, {"right": right.astype(float)}, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_items_that_share_an_image_are_resampled_together():
    images = [benchmark.Image(f"image {n}", bytes) for n in range(100)]
    items = [benchmark.Item(f"{n}/{k}", (images[n],), ("a", "b")) for n in range(100) for k in range(4)]
    right = np.repeat(np.arange(100) % 4 == 0, 4).astype(
        float
    )  # all four items of an image agree: 100 observations, not 400
    low, high = confidence.intervals(bench(items), items, {"right": right}, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 100)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.012)
