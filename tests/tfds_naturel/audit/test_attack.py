"""The text-only attacks against cases whose answer is known beforehand."""

import itertools

import numpy as np
import pytest

from tfds_naturel.audit import attack
from tfds_naturel.audit.attack import Pair

CLASSES = ["Desk", "Chair", "Table", "Coffee table", "Bench", "Guitar", "Wine glass"]
MASKED, RAW, STYLE = attack.views(CLASSES).values()
NOUNS = ("cat", "dog", "horse", "monkey", "desk", "chair", "table", "bench")


def pairs_of(render) -> list[Pair]:
    """One pair for every ordered two nouns; ``render`` gives (true, false)."""
    return [Pair(*render(x, y), f"{x}|on|{y}", "on", "swap") for x, y in itertools.permutations(NOUNS, 2)]


@pytest.mark.parametrize("model", attack.MODELS)
def test_one_word_that_tells_wins_every_pair(model):
    denials = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {x} is not on the {y}"))
    assert attack.wins(denials, MASKED, attack.MODELS[model]).mean() == 1


@pytest.mark.parametrize("model", attack.MODELS)
def test_exchangeable_pairs_are_at_chance(model):
    rng = np.random.default_rng(0)

    def render(x, y):
        texts = [f"the {x} is on the {y}", f"the {x} is under the {y}"]
        return texts if rng.random() < 0.5 else texts[::-1]

    pairs = pairs_of(render)
    score = attack.score(pairs, attack.wins(pairs, MASKED, attack.MODELS[model]))
    assert score.low <= 0.5 <= score.high


def test_texts_that_a_view_makes_equal_tie():
    swaps = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {y} is on the {x}"))
    assert set(attack.wins(swaps, STYLE, attack.ngrams)) == {0.5}


def test_the_mask_alone_gives_away_a_swap_of_an_animal_and_a_thing():
    animate, things = NOUNS[:4], NOUNS[4:]
    swaps = [
        Pair(f"the {x} is on the {y}", f"the {y} is on the {x}", x + y) for x, y in itertools.product(animate, things)
    ]
    assert attack.wins(swaps, MASKED, attack.ngrams).mean() == 1
    assert attack.wins(swaps, STYLE, attack.ngrams).mean() == 0.5


def test_no_model_is_trained_on_a_group_that_it_scores():
    pairs = pairs_of(lambda x, y: (f"{x} {y}", f"{y} {x}"))
    seen = []

    def spy(train, test, view):
        seen.append(({pair.group for pair in train}, {pair.group for pair in test}))
        return np.zeros(len(test))

    assert set(attack.wins(pairs, RAW, spy)) == {0.5}
    assert len(seen) == 5 and all(not train & test for train, test in seen)
    assert set.union(*(test for _, test in seen)) == {pair.group for pair in pairs}


def test_one_group_cannot_be_attacked():
    with pytest.raises(ValueError, match="found 1 groups, expected at least 2"):
        attack.wins([Pair("a b", "b a", "one")] * 3, RAW, attack.ngrams)


@pytest.mark.parametrize(
    ("text", "masked", "style"),
    [
        ("The young boy's guitar.", "the ANIM's THING.", "the NOUN's NOUN."),
        ("Two cats by a coffee table", "two ANIM by a THING", "two NOUN by a NOUN"),
        ("A glass of wine, benched", "a THING, benched", "a NOUN, benched"),
    ],
)
def test_views(text, masked, style):
    assert (MASKED(text), STYLE(text)) == (masked, style)


def test_swapping_the_captions_of_a_pair_changes_the_sign_of_its_margin():
    pairs = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {y} is under the {x}"))
    swapped = [Pair(pair.false, pair.true, pair.group) for pair in pairs]
    for model in attack.MODELS.values():
        margins_P = model(pairs[:40], pairs[40:], RAW)
        np.testing.assert_allclose(margins_P, -model(pairs[:40], swapped[40:], RAW))
        assert np.all(margins_P != 0)


def test_score_by_hand():
    pairs = [Pair("a", "b", group) for group in ("1", "1", "2")]
    score = attack.score(pairs, np.array([1, 0, 0.5]))
    assert (score.accuracy, score.low, score.high, score.pairs) == (0.5, 0.5, 0.5, 3)  # both groups have mean 0.5
    assert attack.score(pairs, np.ones(3)) == attack.Score(1, 1, 1, 3)


def test_giveaways_name_the_word():
    denials = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {x} is not on the {y}"))
    assert ("not", 0, len(denials)) in attack.giveaways(denials, MASKED, most=5)
