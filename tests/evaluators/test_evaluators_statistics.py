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


def test_draws_that_are_kept_are_those_that_are_drawn_again(monkeypatch):
    """The first call draws, the second reads what was kept, the third has too many images to keep."""
    items = [benchmark.Item(str(n), (benchmark.Image(f"image {n}", bytes),), ("a", "b")) for n in range(30)]
    right = {"right": np.arange(30.0) % 2}
    found = [confidence.intervals(bench(items), items, right) for _ in range(2)]
    monkeypatch.setattr(confidence, "_KEPT", 0)
    assert found == [confidence.intervals(bench(items), items, right)] * 2


@pytest.mark.parametrize(
    ("together", "shown"),
    [
        ("", lambda k: [0]),
        ("set", lambda k: [k]),
        ("", lambda k: [(k + m) % 4 for m in range(4)]),  # one of them is described, a choice among all
    ],
)
def test_items_that_share_images_or_an_outcome_are_resampled_together(together, shown):
    """All four items of an image, or of a set, agree: 100 observations, not 400."""
    items = [
        benchmark.Item(
            f"{n}/{k}", tuple(benchmark.Image(f"{n}/{m}", bytes) for m in shown(k)), ("a", "b"), {"set": str(n)}
        )
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


NORMAL_R = stats.norm.ppf((np.arange(500) + 0.5) / 500)  # a bootstrap over many items is as good as normal
SEEDS = np.array([0.5, 0.6, 0.65, 0.8, 0.9]), np.array([0.55, 0.7, 0.61, 0.9, 0.93])


@pytest.mark.parametrize("number", [2, 3, 5])
def test_seeds_alone_have_the_interval_and_p_value_of_a_t_test(number):
    a_S, b_S = (scores[:number] for scores in SEEDS)
    no_images_R = np.zeros(9)
    low, high, _ = confidence.estimate(a_S.mean(), a_S.mean() + no_images_R, [a_S])
    expected = stats.t.interval(0.95, number - 1, loc=a_S.mean(), scale=stats.sem(a_S))
    np.testing.assert_allclose((low, high), expected)
    difference, paired = b_S.mean() - a_S.mean(), stats.ttest_rel(b_S, a_S)
    found = confidence.estimate(difference, difference + no_images_R, [b_S - a_S])
    np.testing.assert_allclose(found, (*paired.confidence_interval(), paired.pvalue))
    apart, welch = confidence.estimate(difference, no_images_R, [a_S, b_S]), stats.ttest_ind(b_S, a_S, equal_var=False)
    assert apart.p > welch.pvalue and apart.high > welch.confidence_interval().high


def test_images_alone_have_the_interval_of_a_mean():
    right_N, error = (np.arange(400) % 4 == 0).astype(float), math.sqrt(0.25 * 0.75 / 400)
    for number in (1, 3):
        resampled_R = resampled(np.tile(right_N, (number, 1))).mean(axis=0)
        low, high, _ = confidence.estimate(0.25, resampled_R, [np.full(number, 0.25)])
        assert (low, high) == pytest.approx((0.25 - 1.96 * error, 0.25 + 1.96 * error), abs=0.003)
        p = confidence.estimate(0.05, resampled_R, [np.full(number, 0.25)]).p
        assert p == pytest.approx(2 * stats.norm.sf(0.05 / error), rel=0.2)


def test_scores_without_any_spread_are_equal_or_not():
    assert confidence.estimate(0.0, np.zeros(9), [np.zeros(3)]) == (0, 0, 1)
    assert confidence.estimate(0.5, np.full(9, 0.5), [np.full(3, 0.5)]) == (0.5, 0.5, 0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0.3, 1, 3])  # standard deviation of a seed, where that of the images' mean is 1
def test_intervals_hold_what_they_promise(seeds, of_seeds):
    """No difference, in 2,000 experiments with other seeds and images: at most 5% of the intervals leave out 0, and at
    most 0.1% of the p-values are below 0.001."""
    rng = np.random.default_rng(seeds)
    scores_TS = of_seeds * rng.normal(size=(2000, seeds)) + rng.normal(size=(2000, 1))
    found = [confidence.estimate(x_S.mean(), x_S.mean() + NORMAL_R, [x_S]) for x_S in scores_TS]
    low_T, high_T, p_T = np.transpose(found)
    assert 0.005 < np.mean((low_T > 0) | (high_T < 0)) < 0.065 and np.mean(p_T < 0.001) < 0.004
    np.testing.assert_array_equal((low_T > 0) | (high_T < 0), p_T < 0.05)


def test_holm_is_the_step_down_formula():
    """max over j <= i of min(1, (m - j + 1) p_(j)), as statsmodels' multipletests computes it."""
    assert confidence.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p_M = np.random.default_rng(0).random(40) ** 3
    steps_M = np.sort(p_M) * np.arange(40, 0, -1)
    expected_M = np.empty(40)
    expected_M[np.argsort(p_M)] = np.minimum(1, np.maximum.accumulate(steps_M))
    assert confidence.holm(list(p_M)) == pytest.approx(expected_M)
