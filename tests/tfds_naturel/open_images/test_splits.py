"""Near-duplicates, held-out triplets and split shares."""

import collections
import itertools
import tracemalloc

import numpy as np
import pytest

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images import splits


def test_near_duplicate_groups_match_all_pairs():
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(64, k, replace=False)) for k in rng.integers(0, 4, 400)]
    noise = np.array(flips, object)
    hashes = np.array([int(bases[i % 40]) ^ int(n) for i, n in enumerate(noise)], np.uint64)
    expected = np.arange(400)  # smallest row reachable through links, by repeated relaxation over all pairs
    linked = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 3
    for _ in range(400):
        expected = np.where(linked, expected[None], 400).min(axis=1)
    np.testing.assert_array_equal(splits.near_duplicates(hashes), expected)
    assert len(set(expected)) >= 40
    assert splits.near_duplicates(np.zeros(0, np.uint64)).shape == (0,)


def test_hashes_that_all_agree_in_a_part_are_refused():
    """Anyone can write a journal of photos, and each of these would be compared with all others."""
    hashes = np.random.default_rng(0).integers(0, 1 << 48, 12_000, dtype=np.uint64)
    with pytest.raises(
        UserError, match=r"of 12,000 hashes each agrees with 12,\d+ in 16 bits; expected at most 10,000"
    ):
        splits.near_duplicates(hashes)


def test_links_of_hashes_that_agree_in_a_part_are_not_all_kept():
    """Four groups of 4,096 hashes; each differs from 298 others in at most 3 bits, and agrees with them in parts."""
    low, high = np.divmod(np.arange(1 << 12, dtype=np.uint64), np.uint64(64))
    bases = np.random.default_rng(0).integers(0, 1 << 63, 4, dtype=np.uint64)
    hashes = (bases[:, None] ^ (low | high << np.uint64(16))).reshape(-1)
    tracemalloc.start()
    groups = splits.near_duplicates(hashes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(groups, np.repeat(np.arange(4) << 12, 1 << 12))
    assert peak < 10 << 20


def test_held_out_triplets_keep_classes_relations_and_converses_in_training():
    rng = np.random.default_rng(0)
    classes = [f"C{i}" for i in range(12)]
    drawn = itertools.product(classes, classes[:6], ("on", "under", "hits"))
    triplets = {Triplet(a, r, b): int(rng.integers(1, 50)) for a, b, r in drawn}
    triplets[Triplet("Rare", "wears", "C1")] = 1
    triplets |= {Triplet(a, "holds", "C1"): 1 for a in classes}
    total = sum(triplets.values())
    held_out = splits.hold_out(triplets, total, seed=3)
    assert 10 <= len(held_out) <= 0.1 * len(triplets)
    assert sum(triplets[t] for t in held_out) <= 0.05 * total
    assert Triplet("Rare", "wears", "C1") not in held_out
    for t in held_out:
        if t.relation in ("on", "under"):
            mirrored = Triplet(t.object, {"on": "under", "under": "on"}[t.relation], t.subject)
            assert mirrored in held_out or mirrored not in triplets
    assert splits.hold_out(dict(reversed(triplets.items())), total, seed=3) == held_out
    assert splits.hold_out(triplets, total, seed=4) != held_out


def test_split_shares():
    counts = collections.Counter(splits.split_of(0, f"{n:016x}") for n in range(20_000))
    for split, share in splits.SHARES.items():
        assert abs(counts[split] / 20_000 - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
