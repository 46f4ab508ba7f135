"""Images near to captions, by all cosines and by sentence-transformers; and which captions are foils of which images.

Shape letters: N images, T triplets, D embedding.
"""

from collections import Counter

import numpy as np
import pytest

from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import captions, mining
from tfds_naturel.hard_images.mining import Margins
from tfds_naturel.hard_images.survey import Survey

CAT_ON_TABLE, TABLE_ON_CAT = Triplet("Cat", "on", "Table"), Triplet("Table", "on", "Cat")
CAT_UNDER_TABLE, TABLE_UNDER_CAT = Triplet("Cat", "under", "Table"), Triplet("Table", "under", "Cat")
PLAYS, HOLDS, HITS = (Triplet("Man", relation, "Guitar") for relation in ("plays", "holds", "hits"))
WOODEN, PLASTIC = (Triplet("Chair", "is", name) for name in ("Wooden", "Plastic"))
IMAGES, TRIPLETS, COUNT, MOST = 400, 12, 5, 300


def _unit(shape, seed=0) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def _cosines(z_ND, z_D) -> np.ndarray:
    """Of copies they are equal, unlike those of a matrix product."""
    return (z_ND * z_D).sum(axis=1)


def _survey(*images) -> Survey:
    return Survey.from_images((str(n), triplets) for n, triplets in enumerate(images))


def _mine(survey, zimg_ND, z_TD, count=COUNT, dropped=None, **margins) -> dict[tuple[int, Triplet], list[int]]:
    """Image and triplet -> its nearest images; no other kind may occur."""
    limits = Margins(**margins)
    queries = captions.queries(survey, zimg_ND, z_TD, limits.stop(count))
    rows = list(mining.mine(survey, count, 0, zimg_ND, None, limits, dropped, queries=queries))
    assert {kind for *_, kinds in rows for kind in kinds} <= {"nearest"}
    return {(int(image), Triplet.parse(triplet)): [*map(int, names)] for image, triplet, names, _ in rows}


@pytest.fixture
def world(monkeypatch):
    """Images with one or two of twelve triplets, none of which contradicts another; image 1 is a copy of image 0, and
    image 2 has no embedding."""
    monkeypatch.setattr(mining, "ROWS", 64)
    rng = np.random.default_rng(1)
    triplets = [Triplet(f"C{t}", "on", "Table") for t in range(TRIPLETS)]
    shown = [[triplets[t] for t in rng.choice(TRIPLETS, 1 + n % 2, replace=False)] for n in range(IMAGES)]
    zimg_ND, survey = _unit((IMAGES, 6)), _survey(*shown)
    zimg_ND[1], zimg_ND[2] = zimg_ND[0], 0
    return survey, zimg_ND, _unit((TRIPLETS, 6), 2)


def test_nearest_images_of_a_caption_are_those_of_all_cosines(world):
    survey, zimg_ND, z_TD = world
    mined = _mine(survey, zimg_ND, z_TD)
    assert len(mined) == len(survey.shown)
    for (n, triplet), found in mined.items():
        to_caption, to_image = _cosines(zimg_ND, z_TD[survey.triplets.index(triplet)]), zimg_ND @ zimg_ND[n]
        left = [m for m in range(IMAGES) if m not in (n, 2) and to_image[m] < 0.97]
        left = [m for m in left if triplet not in survey.triplets_of(m)]
        assert found == sorted(left, key=lambda m: -to_caption[m])[:COUNT]
    assert 1 not in mined[0, survey.triplets_of(0)[0]], "a copy of the image, though it does not show the triplet"


@pytest.mark.parametrize(
    "margins", [{}, {"max_score": 0.5}, {"absolute_margin": 0.1}, {"relative_margin": 0.3}, {"range_min": 7}]
)
def test_margins_are_the_formulas_of_sentence_transformers(world, margins):
    """6.2.0, util/hard_negatives.py: what it removes for a query, and that ranks leave out the query's positives."""
    survey, zimg_ND, z_TD = world
    dropped = Counter()
    mined = _mine(survey, zimg_ND, z_TD, dropped=dropped, **margins, range_max=MOST)
    negative = 0
    for n in range(IMAGES):
        for triplet in survey.triplets_of(n):
            scores = _cosines(zimg_ND, z_TD[survey.triplets.index(triplet)])
            positive, out = scores[n], (zimg_ND @ zimg_ND[n] >= 0.97) | (np.arange(IMAGES) == 2)
            order = np.argsort(-scores, kind="stable")
            ranked = [m for m in order if not out[m] and triplet not in survey.triplets_of(m)]
            removed = scores > margins.get("max_score", 1)
            if n != 2 and "absolute_margin" in margins:
                removed |= scores + margins["absolute_margin"] > positive
            if n != 2 and "relative_margin" in margins:
                removed |= scores > positive - abs(positive) * margins["relative_margin"]
            kept = [m for m in ranked[margins.get("range_min", 0) : MOST] if not removed[m]]
            assert mined.get((n, triplet), []) == kept[:COUNT]
            negative += bool(kept) and positive < 0
    assert not margins or dropped[next(iter(margins))] > 100
    assert negative or "margin" not in str(margins), "the margin of a positive below zero is tried too"


@pytest.mark.slow
@pytest.mark.parametrize("margins", [{}, {"max_score": 0.6}, {"absolute_margin": 0.1}, {"relative_margin": 0.3}])
def test_negatives_of_captions_are_those_that_sentence_transformers_mines(margins):
    """A query has one positive there, so each triplet is shown by one image."""
    import torch
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    z = _unit((2 * TRIPLETS + 60, 6), 3)

    class Tower:
        """Embeds numbers of rows."""

        device = torch.device("cpu")

        def encode_query(self, names, **options):
            return z[[*map(int, names)]]

        encode_document = encode_query

        def similarity(self, a, b):
            return torch.as_tensor(a) @ torch.as_tensor(b).T

        def similarity_pairwise(self, a, b):
            return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)

    images = range(TRIPLETS, len(z))
    table = Dataset.from_dict({"anchor": [str(t) for t in range(TRIPLETS)], "positive": [*map(str, images[:TRIPLETS])]})
    options = {"num_negatives": COUNT, "range_max": len(images) - 1, "verbose": False} | margins
    theirs = mine_hard_negatives(table, Tower(), corpus=[*map(str, images)], **options).to_list()
    triplets = [Triplet(f"C{t}", "on", "Table") for t in range(TRIPLETS)]
    survey = _survey(*([triplet] for triplet in triplets), *([] for _ in images[TRIPLETS:]))
    ours = _mine(survey, z[TRIPLETS:], z[:TRIPLETS], range_max=len(images) - 1, **margins)
    pairs = [(n, m) for (n, _), found in ours.items() for m in found]
    assert pairs == [(int(row["anchor"]), int(row["negative"]) - TRIPLETS) for row in theirs] and len(pairs) > COUNT


def test_relations_come_first_and_nearest_leave_out_what_may_show_the_triplet():
    """By their cosines with the caption, not with the image: image 3 is nearer to the caption, image 2 to image 0."""
    images = [[CAT_ON_TABLE], [TABLE_ON_CAT], [CAT_UNDER_TABLE], [CAT_UNDER_TABLE], [TABLE_UNDER_CAT], [WOODEN]]
    survey, angles = _survey(*images), np.radians([0, 80, 20, 60, 50, 70])
    zimg_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    z_TD = np.tile(np.float32([0, 1]), (len(survey.triplets), 1))
    queries = captions.queries(survey, zimg_ND, z_TD, 8)
    row = next(mining.mine(survey, 8, 0, zimg_ND, queries=queries))
    assert row == ("0", str(CAT_ON_TABLE), ["1", "3", "2", "5"], ["swap", "relation", "relation", "nearest"])


WORDS = {
    CAT_ON_TABLE: ["cat on table", "A cat is on a table."],
    TABLE_ON_CAT: ["table on cat", "A table is on a cat."],
    CAT_UNDER_TABLE: ["cat under table"],
    TABLE_UNDER_CAT: ["table under cat"],
    Triplet("Cat", "at", "Table"): ["cat at table"],
    Triplet("Table", "at", "Cat"): ["table at cat"],
    Triplet("Dog", "on", "Table"): ["dog on table"],
    WOODEN: ["wooden chair"],
    PLASTIC: ["plastic chair"],
    PLAYS: ["man plays guitar"],
    HOLDS: ["man holds guitar"],
    HITS: ["man hits guitar"],
    Triplet("Man", "hits", "Football"): ["man hits ball"],
    Triplet("Man", "holds", "Football"): ["man holds ball"],
    Triplet("Man", "holds", "Tennis ball"): ["Man holds ball."],
}


@pytest.mark.parametrize(
    ("shown", "foils"),
    [
        ([CAT_ON_TABLE], {"table on cat", "A table is on a cat.", "cat under table"}),  # who is on it is also at it
        ([CAT_ON_TABLE, CAT_UNDER_TABLE], set()),  # two cats: one on it, one under it, so the table is on a cat
        ([TABLE_UNDER_CAT], {"table on cat", "A table is on a cat.", "cat under table"}),  # a cat on it, in other words
        ([Triplet("Dog", "on", "Table")], set()),
        ([WOODEN], {"plastic chair"}),
        ([WOODEN, PLASTIC], set()),
        ([PLAYS], set()),  # who plays a guitar may hold and hit it
        ([HOLDS], {"man hits guitar"}),
        ([Triplet("Man", "hits", "Football")], {"man holds ball"}),
        ([Triplet("Man", "hits", "Football"), Triplet("Man", "holds", "Tennis ball")], set()),  # the same words
    ],
)
def test_foils_contradict_the_image_and_none_is_true_of_it(shown, foils):
    found = set()
    for seed in range(8):  # whatever is nearest
        survey = _survey(shown, *([triplet] for triplet in WORDS))
        texts = [WORDS[triplet] for triplet in survey.triplets]
        found |= set(captions.Foils(survey, texts, _unit((sum(map(len, texts)), 3), seed)).of(0))
    assert {foil.foil for foil in found} == foils
    assert all(foil.caption in WORDS[foil.fact] and foil.foil in WORDS[foil.claim] for foil in found)
    assert {foil.fact for foil in found} == ({*shown} if foils else set())


def test_each_true_caption_has_the_nearest_foil_of_all():
    """Of sixty triplets with three captions each, by all cosines."""
    names = ("on", "under", "inside_of")
    triplets = [Triplet(f"A{n}", relation, f"B{n}") for n in range(20) for relation in names]
    survey = _survey(*([triplet] for triplet in triplets))
    texts = [[f"{triplet} {k}" for k in range(3)] for triplet in triplets]
    z_CD = _unit((180, 5))
    foils, cosines = captions.Foils(survey, texts, z_CD), z_CD @ z_CD.T
    flat = [text for each in texts for text in each]
    for n, triplet in enumerate(triplets):
        allowed = [c for c in range(180) if c // 9 == n // 3 and c // 3 != n]  # the same two classes
        found = foils.of(n)
        nearest = [flat[max(allowed, key=lambda c: cosines[row, c])] for row in range(3 * n, 3 * n + 3)]
        assert [(foil.caption, foil.foil) for foil in found] == [*zip(texts[n], nearest, strict=True)]
        assert all(foil.fact == triplet for foil in found)
