"""What can be solved without images, on tiny benchmarks whose scores have closed forms."""

import hashlib
import re

import numpy as np
import pytest

from naturel_jax.benchmarks import __main__ as command
from naturel_jax.benchmarks import blind, rules, shortcuts
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from tests.helpers import benchmark_files as files
from tfds_naturel.common.errors import UserError

RIGHT = (Metric("b/right", "right"),)


def pairs(*captions: tuple[str, ...], true: int = 1, rule=rules.pair, images: int = 1) -> Benchmark:
    """A benchmark with images of its own for each item."""
    items = tuple(
        Item(str(n), tuple(Image(f"{n}/{k}", bytes) for k in range(images)), each) for n, each in enumerate(captions)
    )
    metrics = RIGHT if rule is not rules.two_by_two else tuple(Metric(f"b/{s}", s) for s in rules.STRICT)
    return Benchmark("b", items, rule, metrics, true_captions=true, chance=rules.PAIR)


def test_shares_and_scores_of_four_pairs():
    benchmark = pairs(
        ("A cat on a box.", "a box on a cat"),  # the same words
        ("a cat", "a big cat"),
        ("a dog here", "a dog"),
        ("The cat!", "the  cat"),  # the same caption
    )
    (row,) = shortcuts.rows(benchmark, {("a", "box"), ("big", "cat")})
    assert (row.items, row.order_only, row.values["chance"], row.values["all tied"]) == (4, 2, 1 / 2, 0)
    # Two of equal lengths are drawn, the same for both.
    assert row.values["shortest"] in (1 / 4, 2 / 4, 3 / 4) and row.values["longest"] in (1 / 4, 2 / 4, 3 / 4)
    # Only in the true caption: {cat on, a box} and {on a} are in both; "a cat" against "a big", "big cat"; "dog here".
    assert row.values["true seen"] == 0 and row.values["false seen"] == 0
    assert row.values["most seen"] <= 3 / 4, "of the second pair, only the false caption has some"
    assert shortcuts.equal_captions(benchmark) == 1


def test_bindings_seen_only_in_true_captions():
    benchmark = pairs(("a red car and a blue bus", "a blue car and a red bus"), ("one red car", "one blue car"))
    seen = {("red", "car"), ("blue", "bus"), ("one", "red")}
    (row,) = shortcuts.rows(benchmark, seen)
    # The first true caption also has "car and", as the false one, and "a red", "and a", "a blue" in another place.
    assert (row.values["true seen"], row.values["false seen"], row.values["most seen"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("captions", "true", "same"),
    [
        (("a b", "b a"), 0, True),  # a group's two captions
        (("a b", "a a b"), 0, False),
        (("a b", "c d", "d c"), 2, True),
        (("a b", "c d", "d c"), 1, False),  # of two false ones, one has other words
        (("a b",), 1, False),
    ],
)
def test_order_only(captions, true, same):
    benchmark = pairs(captions, true=true)
    assert shortcuts.order_only(benchmark, benchmark.items).tolist() == [same]


def test_a_word_solves_a_benchmark_and_nothing_solves_one_with_drawn_labels():
    """In four choices among four, where the true caption alone has a word, whatever its length; and in 800 pairs whose
    true caption is drawn, where the number of those that are right is binomial."""
    nouns, rng = [f"thing{n}" for n in range(60)], np.random.default_rng(0)
    solved = pairs(*((f"a {n} is there", f"a {n} was there", f"a {n} now", n) for n in nouns), rule=rules.first_of_many)
    (row,) = shortcuts.rows(solved)
    assert (row.values["blind"], row.values["all tied"], row.order_only) == (1, 1, 0)
    assert "blind, order-only" not in row.values
    drawn = [rng.choice(nouns, 2, replace=False) for _ in range(800)]
    (row,) = shortcuts.rows(pairs(*((f"a {a} and a {b}", f"a {b} and a {a}") for a, b in drawn)))
    half = 2.6 * np.sqrt(0.25 / 800)  # 99%
    assert row.order_only == 800 and row.values["blind, order-only"] == row.values["blind"]
    assert all(abs(row.values[column] - 0.5) < half for column in ("blind", "shortest", "longest"))


def test_learned_weights_are_those_of_logistic_regression():
    """One feature, and pairs whose difference is 1 in the share p of the training items and -1 in the others: at the
    minimum, the penalty's slope w is that of the loss, n (p - sigmoid(w))."""
    captions = [("up", "down")] * 75 + [("down", "up")] * 25
    benchmark = pairs(*captions)
    (weight,) = blind._fit(
        np.array([[1.0], [0.0]]), np.array([[0, 1] if a == "up" else [1, 0] for a, _ in captions]), np.ones(100)
    )
    assert weight == pytest.approx(100 * (0.75 - 1 / (1 + np.exp(-weight))), abs=1e-3)
    values = blind.learned(benchmark.items, 1, ["up", "down"], np.array([[1.0], [0.0]]))
    assert all(
        (value[0] > value[1]) == (item.captions[0] == "up") for item, value in zip(benchmark.items, values, strict=True)
    )


def test_parts_of_items():
    """Blind, the pairs of one word are solved and the two by two are not, whatever the cosines are."""
    solved = pairs(*((f"yes {n}", f"no {n}") for n in range(40)))
    parts = shortcuts.parts(solved, solved.items, [np.zeros((1, 2))] * 40)
    assert not parts[shortcuts.UNSOLVED]["right"].any() and not parts[shortcuts.ORDER_ONLY]["right"].any()
    groups = pairs(("a b", "b a"), ("a", "b"), true=0, rule=rules.two_by_two, images=2)
    parts = shortcuts.parts(groups, groups.items, [])
    assert parts[shortcuts.UNSOLVED]["group"].all() and parts[shortcuts.ORDER_ONLY]["text"].tolist() == [True, False]
    masked = shortcuts.masked({"right": np.array([1.0, 0.0])}, {"right": np.array([True, False])})
    np.testing.assert_array_equal(masked["right"], [1, np.nan])


def test_command_needs_annotations_only(tmp_path, capsys):
    files.sugarcrepe(tmp_path, items=3)
    files.winoground(tmp_path, items=4)
    files.urban1k(tmp_path)
    for image in (*tmp_path.rglob("*.png"), *tmp_path.rglob("*.zip")):
        image.unlink()
    seen = tmp_path / "seen.jsonl"
    files.write(seen, files.lines([{"image": "a.jpg", "caption": "a cat"}]))
    command.main(["--dir", str(tmp_path), "--shortcuts", "--seen", str(seen)])
    text = capsys.readouterr().out
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((tmp_path / "sugarcrepe").glob("*.json"))))
    assert f"| sugarcrepe | 21 | 0 | {digest.hexdigest()[:12]} |" in text
    assert re.search(r"^\| winoground/text \| 4 \| \d \(\d\.\d\d\) \| 0\.25 \| 0\.00 \|( - \|){7}$", text, re.MULTILINE)
    assert "No pairs, groups or choices: urban1k." in text and "more benchmarks are not there" in text
    with pytest.raises(FileNotFoundError, match="valse"):
        command.main(["--dir", str(tmp_path), "--shortcuts", "valse"])
    with pytest.raises(UserError, match="--seen is for --shortcuts"):
        command.main(["--dir", str(tmp_path), "--seen", str(seen)])
