"""Means over seeds and differences, from the results that runs leave, and the comparison of two groups of runs."""

import operator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from naturel_jax.benchmarks import rules, whatsup
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.evaluators import results, scoring
from naturel_jax.report import compare, groups, plots, seeds, ties
from tfds_naturel.common.errors import UserError

NUMBER = 300
METRICS = (Metric("naturel/complex", "right"), Metric("naturel/complex/relation/on", "right", where=("relation", "on")))


def save(folder: Path, right_N: np.ndarray, first: int = 0, others: int = 0) -> seeds.Evaluated:
    """The results of a run that is right on the items, from the number ``first`` on, where ``right_N`` is true; the
    first ``others`` have other captions."""
    items = []
    for n in range(first, first + len(right_N)):
        true = f"a {'cup' if n < first + others else 'cat'} on a dog"
        tags = {"relation": ("on", "under")[n % 2]}
        items.append(Item(str(n), (Image(f"i{n}", bytes),), (true, "a dog on a cat"), tags))
    benchmark = Benchmark("naturel", tuple(items), rules.pair, METRICS, chance=rules.PAIR)
    matrices = [np.array([[0.3, 0.2] if right else [0.2, 0.3]]) for right in right_N]
    scoring.save(folder / results.FOLDER, "tiny", benchmark, "f", (items, matrices, []), {})
    return seeds.of_run(folder)


@pytest.fixture
def runs(tmp_path) -> dict[str, seeds.Evaluated]:
    """Three seeds of A and of B, which is right on more of the same items."""
    rng = np.random.default_rng(0)
    hard_N = rng.random(NUMBER)
    rates = {"A": (0.5, 0.55, 0.6), "B": (0.7, 0.72, 0.77)}
    return {
        f"{setting}{n}": save(tmp_path / f"{setting}{n}", hard_N + rng.normal(0, 0.1, NUMBER) < rate)
        for setting, of_seeds in rates.items()
        for n, rate in enumerate(of_seeds)
    }


def test_mean_and_difference_of_seeds(runs):
    """The values are means of the runs' own scores; the interval of the difference is that of a t-like normal: items
    and seeds cancel but for what is left of both."""
    scores = seeds.read(runs)
    own = {key: results.load(run.out)[0].scores["naturel/complex"]["value"] for key, run in runs.items()}
    assert set(scores.scored) == {"naturel/complex"}, "what tables show"
    sides = [[scores.scored["naturel/complex"][f"{setting}{n}"] for n in range(3)] for setting in "AB"]
    cell = seeds.mean(sides[0], *scores.counts["naturel/complex"])
    assert cell.value == pytest.approx(np.mean([own[f"A{n}"] for n in range(3)])) and cell.count == NUMBER
    alone = results.load(runs["A0"].out)[0].scores["naturel/complex"]
    assert cell.interval[1] - cell.interval[0] > alone["high"] - alone["low"], "seeds add to what items vary"
    one = seeds.difference("B", "naturel/complex", sides[1], sides[0], paired=True)
    per_seed = np.array([own[f"B{n}"] - own[f"A{n}"] for n in range(3)])
    assert one.value == pytest.approx(per_seed.mean()) and one.low < one.value < one.high
    low_error = stats.sem(per_seed)  # of the seeds alone
    assert (one.high - one.low) / (2 * 1.96) > 0.9 * low_error and one.p < 0.01


def test_best_settings_are_those_that_seeds_and_images_cannot_tell_apart(runs):
    scores = seeds.read(runs)
    of_runs = scores.scored["naturel/complex"]
    settings = {setting: [of_runs[f"{setting}{n}"] for n in range(3)] for setting in "AB"}
    assert seeds.best("naturel/complex", settings) == {"B"}
    more = settings | {"first two of B": settings["B"][:2]}
    assert seeds.best("naturel/complex", more) == {"B", "first two of B"}
    assert seeds.best("hard_positives_replace/brittleness", settings) == {"A"}, "less is better"
    assert seeds.best("naturel/complex", {"A": settings["A"]}) == set(), "nothing to compare"
    assert scores.chance["naturel/complex"] == 0.5 and scores.ties[0] == ("A0", "naturel", 0, NUMBER)


def test_runs_are_compared_on_the_items_that_all_have(runs, tmp_path):
    runs["C"] = save(tmp_path / "C", np.ones(NUMBER), first=100)
    scores = seeds.read(runs)
    assert scores.left_out == ["naturel: scored on 200 of 300 items, which all runs have"]
    assert scores.counts["naturel/complex"] == (200, True) and scores.scored["naturel/complex"]["C"].value == 1


def test_items_of_a_file_that_has_changed_are_not_compared_by_their_ids(runs, tmp_path):
    runs["C"] = save(tmp_path / "C", np.ones(NUMBER), others=50)
    scores = seeds.read(runs)
    assert scores.left_out == ["naturel: scored on 250 of 300 items, which all runs have"]
    runs["D"] = save(tmp_path / "D", np.ones(NUMBER), others=NUMBER)
    assert seeds.read(runs).left_out == ["naturel: scored on 0 of 300 items, which all runs have"]
    with pytest.raises(UserError, match=r"no score of naturel .* \(naturel: scored on 0 of 300 items"):
        groups.markdown("A0", "D", {"A0": runs["A0"]}, {"D": runs["D"]}, "naturel", "right")


def test_a_run_after_two_that_share_no_item_adds_none(runs, tmp_path):
    apart = {"A": runs["A0"], "C": save(tmp_path / "C", np.ones(NUMBER), first=NUMBER), "B": runs["B0"]}
    scores = seeds.read(apart)
    assert scores.left_out == ["naturel: scored on 0 of 300 items, which all runs have"] and not scores.scored


def test_sets_that_share_an_outcome_are_resampled_as_one(tmp_path):
    """What'sUp: of 100 sets of four photos, B gets 20 that A does not. In seeds' differences and in bold."""
    tags = [{"set": f"s{n // 4}", "subset": "A"} for n in range(400)]
    items = [Item(str(n), (Image(f"i{n}", bytes),), tuple("abcd"), tags[n]) for n in range(400)]
    metrics = (Metric("whatsup/A/set", "set", where=("subset", "A")),)
    benchmark = Benchmark("whatsup", items, whatsup.outcomes, metrics, together="set")
    for name, sets in (("A", 30), ("B", 50)):
        matrices = [np.array([[1.0, 0, 0, 0] if n < 4 * sets else [0, 1.0, 0, 0]]) for n in range(400)]
        scoring.save(tmp_path / name / results.FOLDER, name, benchmark, "f", (items, matrices, []), {})
    runs = {name: seeds.of_run(tmp_path / name) for name in "AB"}
    found = seeds.read(runs, lambda metrics: {"whatsup/A/set"}).scored["whatsup/A/set"]
    one = seeds.difference("", "whatsup/A/set", [found["B"]], [found["A"]], paired=False)
    rows_a, rows_b = ({row["id"]: row for row in results.load_items(*runs[name], "whatsup")} for name in "AB")
    half = 1.96 * np.sqrt(0.2 * 0.8 / 100)
    for low, high in ((one.low, one.high), ties.differences(rows_b, rows_a, metrics)["whatsup/A/set"]):
        assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.015)


def test_compare_takes_groups_of_runs(runs, tmp_path, monkeypatch, capsys):
    """Folders as patterns and lists; two scores, so Holm's p is at least twice the smaller p."""
    monkeypatch.chdir(tmp_path)
    compare.main(["A?", "B0,B1", "--benchmark", "naturel"])
    text = capsys.readouterr().out
    assert "# B0,B1 against A? on naturel" in text and "A?, 3 runs: A0, A1, A2." in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| naturel" in line]
    assert [row[0] for row in rows] == ["naturel/complex", "naturel/complex/relation/on"]
    own = {key: results.load(run.out)[0].scores["naturel/complex"]["value"] for key, run in runs.items()}
    assert float(rows[0][1]) == pytest.approx(np.mean([own[f"A{n}"] for n in range(3)]), abs=5e-4)
    p_values = [[float(cell) for cell in row[-2:]] for row in rows]
    alone, adjusted = zip(*p_values, strict=True)
    assert all(map(operator.ge, adjusted, alone)) and max(adjusted) >= 1.9 * min(alone), "as they are printed"
    for again in ("A0", ".//A0", str(tmp_path / "A0")):
        assert len(groups.find(f"A0,{again}", tmp_path)) == 1
        with pytest.raises(UserError, match="A0 is on both sides"):
            compare.main(["A?", again, "--benchmark", "naturel"])
    with pytest.raises(UserError, match=r"'Z\*' matches no model in .* and no folder of a run"):
        groups.find("Z*", tmp_path)


def test_curve_of_seeds_has_a_band():
    """It is drawn where the seeds differ, and not for one seed."""
    low, high = ([(step, {"my/score": value}) for step in (0, 10)] for value in (0.2, 0.8))
    assert plots.accuracy_over_training({"A": [low, high]}) is None, "not a metric that plots show"
    band, line = (plots.accuracy_over_training({"A": runs}, "my/score") for runs in ([low, high], [low]))
    assert band and line and band.svg != line.svg
    assert "several seeds" in band.text and "seeds" not in line.text
