"""The text-only attacks against cases whose answer is known beforehand."""

import itertools

import numpy as np
import pytest

from tfds_naturel.captions import attack
from tfds_naturel.captions.attack import Pair

NOUNS = ("cat", "dog", "horse", "monkey", "desk", "chair", "table", "bench")


def pairs_of(render) -> list[Pair]:
    """One pair for every ordered two nouns; ``render`` gives (true, false)."""
    found = []
    for x, y in itertools.permutations(NOUNS, 2):
        found.append(Pair(*render(x, y), group=f"{x}|on|{y}", relation="on", operation="swap"))
    return found


@pytest.mark.parametrize(("model", "view"), [*(("1-3-grams", view) for view in attack.VIEWS), ("boosting", "masked")])
def test_one_word_that_tells_wins_every_pair(model, view):
    told = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {x} is not on the {y}"))
    assert attack.wins(told, attack.VIEWS[view], attack.MODELS[model]).mean() == 1


@pytest.mark.parametrize("model", attack.MODELS)
def test_exchangeable_pairs_are_at_chance(model):
    rng = np.random.default_rng(0)

    def render(x, y):
        texts = [f"the {x} is on the {y}", f"the {x} is under the {y}"]
        return texts if rng.random() < 0.5 else texts[::-1]

    pairs = pairs_of(render)
    found = attack.score(attack.wins(pairs, model=attack.MODELS[model]), [pair.group for pair in pairs])
    assert found.low <= 0.5 <= found.high


def test_equal_texts_under_a_view_tie():
    swaps = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {y} is on the {x}"))
    assert set(attack.wins(swaps, attack.style)) == {0.5}


def test_a_swap_of_animate_and_thing_is_told_by_the_mask_alone():
    animate, things = NOUNS[:4], NOUNS[4:]
    swaps = [
        Pair(f"the {x} is on the {y}", f"the {y} is on the {x}", x + y) for x, y in itertools.product(animate, things)
    ]
    assert attack.wins(swaps, attack.masked).mean() == 1
    assert attack.wins(swaps, attack.style).mean() == 0.5


def test_folds_never_share_a_group():
    keys = [f"group {n % 17}" for n in range(100)]
    folds = attack.fold_groups(keys)
    assert len(folds) == 5 and sorted(key for fold in folds for key in fold) == sorted(set(keys))


def test_a_model_is_never_shown_the_group_it_judges():
    pairs = pairs_of(lambda x, y: (f"{x} {y}", f"{y} {x}"))
    seen = []

    def spy(train, test, view):
        seen.append(({pair.group for pair in train}, {pair.group for pair in test}))
        return np.zeros(len(test))

    assert set(attack.wins(pairs, model=spy)) == {0.5}
    assert len(seen) == 5 and all(not train & test for train, test in seen)
    assert set.union(*(test for _, test in seen)) == {pair.group for pair in pairs}


def test_one_group_cannot_be_attacked():
    with pytest.raises(ValueError, match="found 1 groups, expected at least 2"):
        attack.wins([Pair("a b", "b a", "one")] * 3)


@pytest.mark.parametrize(
    ("text", "masked", "style"),
    [
        ("The young boy's guitar.", "the ANIM's THING.", "the NOUN's NOUN."),
        ("Two cats by a coffee table", "two ANIM by a THING", "two NOUN by a NOUN"),
        ("A glass of wine, benched", "a THING, benched", "a NOUN, benched"),
    ],
)
def test_views(text, masked, style):
    assert (attack.masked(text), attack.style(text)) == (masked, style)


def test_scores_by_hand():
    pairs = [Pair("a", "b", "1", "on", "swap"), Pair("c", "d", "1", "on", "denial"), Pair("e", "f", "2", "is", "swap")]
    found = attack.scores(pairs, np.array([1, 0, 0.5]))
    assert {key: (score.accuracy, score.pairs) for key, score in found.items()} == {
        "all": (0.5, 3),
        "on": (0.5, 2),
        "is": (0.5, 1),
        "operation swap": (0.75, 2),
        "operation denial": (0, 1),
    }
    assert attack.score(np.ones(4), ["1", "1", "2", "3"]) == attack.Score(1, 1, 1, 4)


def test_telling_finds_the_word():
    told = pairs_of(lambda x, y: (f"the {x} is on the {y}", f"the {x} is not on the {y}"))
    assert ("not", 0, len(told)) in attack.telling(told, most=5)
