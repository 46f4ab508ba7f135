"""The grammar and its table of relations."""

import numpy as np
import pytest

from tests.helpers.open_images_files import V6_RELATIONS
from tfds_naturel.captions import checks, grammar, lexicon
from tfds_naturel.captions.relations import RELATIONS, converse, excluded
from tfds_naturel.common.schema import Triplet

LABELS = [*(label for label in V6_RELATIONS if label != "is"), "left_of", "right_of", "is"]
CLASSES = ("Man", "Woman", "Cat", "Chopsticks", "Mobile phone", "Coffee table", "Table", "Umbrella", "Elephant", "Ski")
ATTRIBUTES = ("Wooden", "Transparent", "Plastic", "(made of)Leather", "(made of)Textile")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_triplets(count: int) -> list[Triplet]:
    draw, triplets = rng(7), []
    for _ in range(count):
        relation, subject = draw.choice(LABELS), draw.choice(CLASSES)
        object_ = draw.choice(ATTRIBUTES) if relation == "is" else draw.choice(CLASSES)
        triplets.append(Triplet(str(subject), str(relation), str(object_)))
    return triplets


def test_grammar_writes_passing_captions_for_every_relation():
    written = {triplet: grammar.write(triplet, rng(n)) for n, triplet in enumerate(random_triplets(400))}
    assert {t.relation for t in written} == set(LABELS)
    assert checks.check(written) == []
    negatives = [caption for captions in written.values() for caption in captions[1::2]]
    assert all(excluded(c.triplet, c.asserts) if c.asserts else c.operation == "denial" for c in negatives)


def test_grammar_is_a_pure_function_of_the_rng_state():
    triplet = Triplet("Cat", "on", "Desk")
    assert grammar.write(triplet, rng(3)) == grammar.write(triplet, rng(3)) != grammar.write(triplet, rng(4))


def test_captions_are_pairs_in_order():
    captions = grammar.write(Triplet("Dog", "paints", "Umbrella"), rng())
    assert [(c.pair, c.polarity) for c in captions] == [(p, s) for p in range(4) for s in ("positive", "negative")]
    assert [c.text for c in captions[:2]] == ["dog paints umbrella", "umbrella paints dog"]


def test_negatives_are_false_in_a_closed_world():
    world = {Triplet("Cat", "on", "Desk"), Triplet("Desk", "holds", "Cat"), Triplet("Desk", "on", "Cat")}
    for seed in range(200):
        for caption in grammar.write(Triplet("Cat", "on", "Desk"), rng(seed), world.__contains__)[1::2]:
            claim = caption.asserts
            assert claim is None or (claim not in world and converse(claim) not in world)


def test_symmetric_relations_are_never_swapped():
    for relation in ("interacts_with", "hug", "highfive", "at"):
        for seed in range(50):
            negatives = grammar.write(Triplet("Man", relation, "Dog"), rng(seed))[1::2]
            assert all(c.operation != "swap" for c in negatives)


def test_relation_table_is_consistent():
    for label, relation in RELATIONS.items():
        assert all(other in RELATIONS for other in (*relation.excludes, *relation.implies))
        assert not set(relation.excludes) & set(relation.implies), label
        if relation.converse:
            assert RELATIONS[relation.converse].converse == label


@pytest.mark.parametrize(
    ("triplet", "claim", "false"),
    [
        ("Cat|on|Desk", "Desk|on|Cat", True),
        ("Cat|on|Desk", "Cat|under|Desk", True),
        ("Cat|on|Desk", "Desk|under|Cat", False),  # the converse, so true
        ("Cat|on|Desk", "Cat|inside_of|Desk", True),
        ("Man|at|Desk", "Man|under|Desk", True),
        ("Cat|on|Desk", "Cat|at|Desk", False),  # may also be true
        ("Chair|at|Table", "Table|at|Chair", False),  # loosely symmetric
        ("Man|interacts_with|Dog", "Dog|interacts_with|Man", False),
        ("Table|is|Wooden", "Table|is|Plastic", True),
        ("Bottle|is|Plastic", "Bottle|is|Transparent", False),  # most are both
    ],
)
def test_excluded_claims(triplet, claim, false):
    assert excluded(Triplet.parse(triplet), Triplet.parse(claim)) is false


@pytest.mark.parametrize(
    ("label", "claims"),
    [
        (
            "on",
            {
                "The cat rests on the desk.": "Cat|on|Desk",
                "The cat was under the desk.": "Desk|on|Cat",
                "The cat is supporting the desk.": "Desk|on|Cat",
            },
        ),
        ("holds", {"The cat clutches the desk.": "Cat|holds|Desk", "The cat is held by the desk.": "Desk|holds|Cat"}),
        ("dance", {"The cat is dancing with the desk.": "Cat|dance|Desk"}),
    ],
)
def test_predicates_claim_what_their_words_say(label, claims):
    """``asserts`` of the grammar's captions is what their predicates claim."""
    x, y = (lexicon.nouns(name)[0] for name in ("Cat", "Desk"))
    said = {}
    for predicate in (*grammar.predicates(label), *grammar.reverse(label)):
        claim = predicate.claim("Cat", "Desk")
        for shape in ("plain", "inverted", "cleft"):
            if shape != "inverted" or predicate.front:
                text = grammar.render(shape, predicate, x, y, ("the", "the"))
                said.setdefault(text, set()).update({claim, converse(claim)})
    for text, claim in claims.items():
        assert said[text] == {Triplet.parse(claim), converse(Triplet.parse(claim))}
