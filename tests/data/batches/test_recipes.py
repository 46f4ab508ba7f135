"""What the recipes sample, against a simple restatement of their rules, and which groups they reject."""

import itertools
import re

import numpy as np
import pytest

from naturel_jax.data.batches.recipes import Recipe, recipe, shuffle_order, shuffle_words
from naturel_jax.data.items.items import Caption, Group, collect
from tests.helpers.caption_groups import TRIPLETS, is_uniform, items, sampled_texts
from tfds_naturel.common.errors import UserError


def samples(name: str, n: int = 0, times: int = 400):
    """Samples repeatedly for image ``n``; yields positions in the eight captions of Cat|on|Table."""
    position = {text: i for i, (text, _) in enumerate(TRIPLETS["Cat|on|Table"])}
    for sides in sampled_texts(recipe(name), items(), [n] * times):
        yield tuple([position.get(text, text) for text in side] for side in sides)


def test_single_pair_samples_one_complex_positive_and_one_complex_negative():
    assert is_uniform(samples("single_pair", times=900), [([p], [n]) for p in (2, 4, 6) for n in (3, 5, 7)])


def test_one_pair_samples_a_whole_pair():
    assert is_uniform(samples("one_pair"), [([p], [p + 1]) for p in (0, 2, 4, 6)])


def test_two_pairs_samples_two_whole_pairs():
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    assert is_uniform(samples("two_pairs", times=1200), [([2 * a, 2 * b], [2 * a + 1, 2 * b + 1]) for a, b in pairs])


def test_positives_samples_any_positive():
    """An image has the same captions whatever is sampled for the one before it."""
    seen = list(samples("positives", times=1600))
    assert is_uniform(seen, [([p], []) for p in (0, 2, 4, 6)])
    assert is_uniform(itertools.pairwise(seen), itertools.product([([p], []) for p in (0, 2, 4, 6)], repeat=2))


def test_different_captions_are_sampled_of_groups_of_different_sizes():
    """In any order, and of all images at once."""
    sizes = (3, 5)
    table = collect("sizes", [(str(n), [Group([Caption(f"{p}", pair=p) for p in range(n)])]) for n in sizes])
    sampled = [tuple(map(int, texts)) for texts, _ in sampled_texts(Recipe(positives=3), table, [0, 1] * 1500)]
    for n, seen in zip(sizes, (sampled[::2], sampled[1::2]), strict=True):
        assert is_uniform(seen, itertools.permutations(range(n), 3))


def test_order_shuffles_samples_a_positive_and_a_permutation_of_its_words():
    seen = set()
    for [text], [negative] in sampled_texts(recipe("order_shuffles"), items(), [0] * 400):
        assert text in {t for t, _ in TRIPLETS["Cat|on|Table"][::2]}
        assert negative != text and sorted(negative.split()) == sorted(text.split())
        seen.add(negative)
    assert len(seen) > 50


@pytest.mark.parametrize("text", ["", "dog", "dog dog"])
def test_words_with_only_one_order_are_unchanged(text):
    assert shuffle_order(text.split(), np.random.default_rng(0)) == text.split()


def test_bag_of_words_shuffles_its_positive_and_skips_attributes():
    expected = {tuple(sorted(TRIPLETS["Cat|on|Table"][i][0].split())) for i in (0, 2, 4, 6)}
    texts = [positive for [positive], _ in samples("bag_of_words", n=2)]
    texts = [TRIPLETS["Cat|on|Table"][t][0] if isinstance(t, int) else t for t in texts]
    assert {tuple(sorted(text.split())) for text in texts} == expected


def test_every_triplet_of_an_image_is_sampled():
    sampled = [positive for [positive], _ in sampled_texts(recipe("single_pair"), items(), [2] * 600)]
    wooden = {text for text, _ in TRIPLETS["Table|is|Wooden"]}
    assert is_uniform((text in wooden for text in sampled), (True, False))


def _table(positives: int, negatives: int):
    sides = (("p", positives), ("n", negatives))
    captions = ([Caption(f"{side}{n}", pair=n) for n in range(count)] for side, count in sides)
    return collect("table", [("image", [Group(*captions)])])


def _sampled(which: Recipe, positives: int, negatives: int) -> set:
    table = _table(positives, negatives)
    which.check(table)
    return {tuple(" ".join(sorted(side)) for side in sides) for sides in sampled_texts(which, table, [0] * 300)}


def test_recipes_on_groups_of_other_sizes():
    assert _sampled(recipe("positives"), 1, 0) == {("p0", "")}
    assert _sampled(recipe("positives"), 3, 7) == {("p0", ""), ("p1", ""), ("p2", "")}
    assert _sampled(recipe("one_pair"), 1, 6) == {("p0", f"n{n}") for n in range(6)}
    assert _sampled(recipe("one_pair"), 5, 5) == {(f"p{n}", f"n{n}") for n in range(5)}
    assert _sampled(recipe("all_pairs"), 1, 3) == {("p0 p0 p0", "n0 n1 n2")}
    assert _sampled(Recipe(positives=2, negatives="all"), 3, 2) == {(p, "n0 n1") for p in ("p0 p1", "p0 p2", "p1 p2")}
    assert _sampled(Recipe(positives=1, negatives=2), 1, 3) == {("p0", n) for n in ("n0 n1", "n0 n2", "n1 n2")}


def test_check_returns_the_largest_number_of_captions():
    sizes = [("a", [Group([Caption("p")], [Caption(f"n{n}") for n in range(3)])]), ("b", [Group([Caption("p")] * 2)])]
    table = collect("sizes", sizes)
    assert Recipe(positives="all").check(table) == (2, 0)
    assert recipe("order_shuffles").check(table) == (1, 1)
    assert recipe("all_pairs").check(items()) == (4, 4)


def test_error_names_a_group_the_recipe_cannot_use():
    good, bad = (Group([Caption(f"a cat {n}")], [Caption("no cat")] * n) for n in (1, 0))
    table = collect("pets:train", [("first", [good]), ("second", [good, bad])])
    for name, needs in {"one_pair": "1 negative(s) in pairs", "single_pair": "1 negative(s) of kind 'complex'"}.items():
        message = (
            f"recipe {name!r} (config.data.mixture) does not fit pets:train, image 'second': it needs "
            f"1 positive(s) and {needs} in every caption group, but one has positives "
            "['a cat 0' (complex, pair 0)], negatives []"
        )
        with pytest.raises(UserError, match=re.escape(message)):
            recipe(name).check(table)
    with pytest.raises(UserError, match="does not fit pets:train, image 'first'"):
        recipe("two_pairs").check(table)
    recipe("positives").check(table)


def test_contradictory_and_unknown_recipes_are_rejected():
    with pytest.raises(ValueError, match="2 positives and 1 negatives differ"):
        Recipe(positives=2, negatives=1, paired=True)
    with pytest.raises(ValueError, match="negatives is 1"):
        Recipe(positives=1, negatives=1, rewrite_to_negative=shuffle_words)
    with pytest.raises(UserError, match=r"'three_pairs' is unknown; expected one of: positives, .*single_pair"):
        recipe("three_pairs")
