"""Captions whose words do not tell which are true: of the drawn worlds, and of V6's poses."""

import collections

import numpy as np
import pytest

from tfds_naturel.audit import attack, attack_report
from tfds_naturel.captions import bank, mirrored
from tfds_naturel.captions.mirrored import Rival
from tfds_naturel.captions.relations import CONTRARIES
from tfds_naturel.common.schema import Triplet
from tfds_naturel.scenes import examples, world
from tfds_naturel.scenes.scene import CONFIGS

LIMIT = 0.6  # of the pairs that a text-only model may win, of which it gets half by guessing
HITS, MEETS = Triplet("Cat", "hits", "Dog"), Triplet("Cat", "interacts_with", "Dog")


@pytest.fixture(scope="module")
def seen() -> list[attack.Pair]:
    """A set of captions for each triplet of the demo's world that is not held out."""
    config = CONFIGS["scenes"]
    triplets = sorted(config.compositions()[0].triplets)
    return attack_report.bank_pairs({triplet: examples.caption_sets(config, triplet)[0] for triplet in triplets})


@pytest.mark.parametrize("view", ["masked", "raw", "style"])
def test_text_does_not_solve_the_demo(seen, view):
    wins_P = attack.wins(seen, attack.views(CONFIGS["scenes"].classes)[view], attack.ngrams)
    assert wins_P.mean() < LIMIT
    for relation in {pair.relation for pair in seen}:
        rows = [row for row, pair in enumerate(seen) if pair.relation == relation]
        assert attack.score([seen[row] for row in rows], wins_P[rows]).low < LIMIT, relation


def test_text_does_not_solve_held_out_triplets(seen):
    config = CONFIGS["scenes"]
    triplets = sorted(config.compositions()[1].triplets)
    unseen = attack_report.bank_pairs({triplet: examples.caption_sets(config, triplet)[0] for triplet in triplets})
    for view in attack.views(config.classes).values():
        assert attack.as_wins(attack.ngrams(seen, unseen, view)).mean() < LIMIT


@pytest.fixture(scope="module")
def poses() -> bank.Bank:
    return bank.load(bank.files("v6")[-1])


@pytest.mark.parametrize("view", ["masked", "raw", "style"])
def test_text_does_not_solve_poses(poses, view):
    pairs = attack_report.bank_pairs(poses)
    wins_P = attack.wins(pairs, attack_report.bank_views(poses)[view], attack.ngrams)
    assert wins_P.mean() < LIMIT


def test_what_is_false_of_a_pose_is_true_of_another(poses):
    """Nobody is annotated to be silent, the only contrary of two poses, and hardly anything else claims what nobody is
    annotated to do."""
    claims = [(triplet, caption.asserts) for triplet, captions in poses.items() for caption in captions[3::2]]
    never = [(triplet, claim) for triplet, claim in claims if claim is None or claim not in poses]
    assert sum(CONTRARIES[triplet.object] != ("Silent",) for triplet, _ in never) <= 3
    assert len(claims) == 120 and len(never) <= 24 + 3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_shares_are_equal_in_both_directions(config):
    rivals = world.rivals(config.compositions()[0].triplets)
    shares = {(triplet, rival.triplet): rival.share for triplet, found in rivals.items() for rival in found}
    total = collections.Counter()
    for (triplet, other), share in shares.items():
        assert shares[other, triplet] == pytest.approx(share) and 0 <= share <= 1
        assert {triplet.subject, triplet.object} == {other.subject, other.object}
        total[triplet] += share
    assert max(total.values()) < 1 + 1e-9
    assert all(total[t] == pytest.approx(1) for t in rivals if t.relation == "interacts_with")


def texts(triplet: Triplet, other: Triplet, pair: int, **ruled_out: bool) -> collections.Counter:
    """How often each (positive, negative) is written, in 2,000 sets."""
    rivals = [Rival(other, 1, **ruled_out)]
    sets = (mirrored.write(triplet, rivals, np.random.default_rng(seed)) for seed in range(2000))
    return collections.Counter((captions[2 * pair].text, captions[2 * pair + 1].text) for captions in sets)


def test_pairs_are_written_as_often_exchanged():
    """The two simple pairs, one of each animal: five standard deviations of a difference of two counts."""
    hits = texts(HITS, MEETS, 0, weak=True, strong=False)
    meets = texts(MEETS, HITS, 0, weak=False, strong=True)
    assert hits.keys() == {
        ("cat hitting dog, not just interacting with it", "cat just interacting with dog, not hitting it"),
        ("dog hit by cat, not just interacting with it", "dog just interacting with cat, not hit by it"),
    }
    assert {(negative, positive) for positive, negative in meets} == hits.keys()
    for (positive, negative), count in hits.items():
        assert abs(count - meets[negative, positive]) < 5 * (2 * 2000 / 4) ** 0.5


def test_contrasts_have_four_forms():
    written = {positive for pair in (1, 2, 3) for positive, _ in texts(HITS, MEETS, pair, weak=True, strong=False)}
    for text in (
        "Instead of just interacting with the dog, the cat hits it.",
        "The cat hits the dog rather than just interacting with it.",
        "The cat is not just interacting with the dog but hitting it.",
        "You can see a cat hitting the dog, not just interacting with it.",
    ):
        assert text in written


def test_a_triplet_that_needs_rivals_is_refused_without_any():
    with pytest.raises(ValueError, match=r"Cat\|interacts_with\|Dog: has no rivals"):
        mirrored.write(MEETS, [], np.random.default_rng(0))
    swapped = mirrored.write(HITS, [], np.random.default_rng(0))
    assert [caption.text for caption in swapped[:2]] == ["cat hits dog", "dog hits cat"]
    assert {caption.operation for caption in swapped[1::2]} == {"swap"}
