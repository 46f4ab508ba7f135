"""Blind baselines and confidence intervals, against closed forms."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from naturel_jax.benchmarks import benchmark, blind, rules
from naturel_jax.evaluators import confidence


def bench(items) -> benchmark.Benchmark:
    return benchmark.Benchmark("b", tuple(items), rules.pair, (benchmark.Metric("accuracy", "right"),))


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


def test_draws_that_are_kept_are_those_that_are_drawn_again(monkeypatch):
    """The first call draws, the second reads what was kept, the third has too many images to keep."""
    items = [benchmark.Item(str(n), (benchmark.Image(f"image {n}", bytes),), ("a", "b")) for n in range(30)]
    right = {"right": np.arange(30.0) % 2}
    found = [confidence.intervals(bench(items), items, right) for _ in range(2)]
    monkeypatch.setattr(confidence, "_KEPT", 0)
    assert found == [confidence.intervals(bench(items), items, right)] * 2


@pytest.mark.parametrize("together", ["", "set"])
def test_items_that_share_an_image_or_an_outcome_are_resampled_together(together):
    """All four items of an image, or of a set, agree: 100 observations, not 400."""
    items = [
        benchmark.Item(f"{n}/{k}", (benchmark.Image(f"{n}/{k * bool(together)}", bytes),), ("a", "b"), {"set": str(n)})
        for n in range(100)
        for k in range(4)
    ]
    right = np.repeat(np.arange(100) % 4 == 0, 4).astype(float)
    scored = dataclasses.replace(bench(items), together=together)
    low, high = confidence.intervals(scored, items, {"right": right}, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 100)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.012)


def test_resamples_of_many_metrics_are_not_kept():
    """1,000 resamples of each are 8 kB."""
    items = [benchmark.Item(str(n), (), ("a", "b")) for n in range(3)]
    metrics = tuple(benchmark.Metric(f"b/tag/{n}", "right") for n in range(2000))
    tracemalloc.start()
    found = confidence.intervals(dataclasses.replace(bench(items), metrics=metrics), items, {"right": np.arange(3.0)})
    assert len(found) == 2000 and tracemalloc.get_traced_memory()[1] < 16e6
    tracemalloc.stop()


# ---- Seeds ----------------------------------------------------------------------------------------------------------


def resampled(scores_SN: np.ndarray, resamples: int = 8000) -> np.ndarray:
    """The scores [S, R] of S runs on resamples of N items, each with an image of its own."""
    items = [benchmark.Item(str(n), (), ("a", "b")) for n in range(scores_SN.shape[1])]
    ((_, (values_S, resampled_SR)),) = confidence.resample(
        bench(items), items, [{"right": x} for x in scores_SN], resamples
    )
    np.testing.assert_allclose(values_S, scores_SN.mean(axis=1))
    return resampled_SR


def test_bootstrap_over_seeds_and_items_has_the_variance_of_two_crossed_factors():
    """Against the covariances of multinomial counts, written out: of the drawn items, C_N = I - 11'/N, and of the drawn
    seeds, C_S, which is scaled by S / (S - 1)."""
    rng = np.random.default_rng(3)
    seeds, number = 4, 30
    x_SN = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, number)) + rng.normal(size=(seeds, number))
    C_NN, C_SS = np.eye(number) - 1 / number, np.eye(seeds) - 1 / seeds
    mean_N = x_SN.mean(axis=0)
    of_items = mean_N @ C_NN @ mean_N / number**2
    of_seeds = np.sum(C_SS * (x_SN @ (C_NN + 1) @ x_SN.T)) / (number * seeds) ** 2 * seeds / (seeds - 1)
    found_R = confidence.mean_over_seeds(resampled(x_SN, 40_000))
    assert found_R.var() == pytest.approx(of_items + of_seeds, rel=0.03)
    assert found_R.mean() == pytest.approx(x_SN.mean(), abs=4 * math.sqrt((of_items + of_seeds) / 40_000))


def test_spread_over_seeds_alone_is_the_standard_error_of_their_mean():
    scores_S1 = np.array([[0.5], [0.6], [0.65], [0.8], [0.9]])
    found_R = confidence.mean_over_seeds(resampled(scores_S1, 40_000))
    assert found_R.std() == pytest.approx(np.std(scores_S1, ddof=1) / math.sqrt(5), rel=0.02)


def test_equal_seeds_have_the_interval_of_one():
    right_N = (np.arange(400) % 4 == 0).astype(float)
    one, three = (confidence.mean_over_seeds(resampled(np.tile(right_N, (n, 1)))) for n in (1, 3))
    np.testing.assert_allclose(three, one)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert confidence.bounds(one) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_what_seeds_and_items_share_cancels_in_pairs():
    x_SN = np.random.default_rng(0).normal(size=(5, 50))
    a_R, b_R = (confidence.mean_over_seeds(resampled(x)) for x in (x_SN, x_SN + 0.25))
    np.testing.assert_allclose(b_R - a_R, 0.25)
    unpaired_R = confidence.mean_over_seeds(resampled(x_SN), stream=2) - a_R
    assert unpaired_R.std() > 0.05, "seeds that are drawn apart do not cancel"


@pytest.mark.parametrize("z", [0.0, 1.0, 2.5])
def test_p_value_is_that_of_a_normal_difference(z):
    difference_R = np.random.default_rng(1).normal(z, 1, size=200_000)
    assert confidence.p_value(difference_R) == pytest.approx(2 * stats.norm.sf(z), abs=0.004)
    assert confidence.p_value(np.full(999, 0.1)) == 2 / 1000 and confidence.p_value(np.zeros(9)) == 1


def test_holm_is_the_step_down_formula():
    """max over j <= i of min(1, (m - j + 1) p_(j)), as statsmodels' multipletests computes it."""
    assert confidence.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p_M = np.random.default_rng(0).random(40) ** 3
    steps_M = np.sort(p_M) * np.arange(40, 0, -1)
    expected_M = np.empty(40)
    expected_M[np.argsort(p_M)] = np.minimum(1, np.maximum.accumulate(steps_M))
    assert confidence.holm(list(p_M)) == pytest.approx(expected_M)
