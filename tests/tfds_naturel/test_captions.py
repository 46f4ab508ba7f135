"""The grammar, its table of relations, and the parser of caption pairs."""

import numpy as np
import pytest

from tests.helpers.open_images_files import V6_RELATIONS
from tfds_naturel.captions import checks, grammar, parse
from tfds_naturel.captions.relations import RELATIONS, converse, excluded
from tfds_naturel.common.schema import Caption, Triplet

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
    ("positive", "negative", "operation", "claim"),
    [
        ("The cat is on the desk.", "The desk is on the cat.", "swap", "Desk|on|Cat"),
        ("The cat is on the desk.", "The cat is under the desk.", "relation", "Cat|under|Desk"),
        ("The desk is under the cat.", "The cat is under the desk.", "swap", "Cat|under|Desk"),
        ("The desk is under the cat.", "The desk is above the cat.", "relation", "Cat|under|Desk"),
        ("There's a desk with a cat on it.", "There's a desk with a cat under it.", "relation", "Cat|under|Desk"),
        ("The cat is on the desk.", "The cat is not on the desk.", "denial", None),
        ("The cat is on the desk.", "The cat is under the desk, not on it.", "relation", "Cat|under|Desk"),
    ],
)
def test_operation_is_parsed_from_a_pair(positive, negative, operation, claim):
    read = parse.operation(positive, negative, Triplet("Cat", "on", "Desk"))
    assert read == (operation, Triplet.parse(claim) if claim else None)


@pytest.mark.parametrize(
    ("positive", "negative", "false"),
    [
        ("The girl wears the bag, not just holds it.", "The girl just holds the bag, not wears it.", True),
        ("The bag is on the girl's back.", "The bag is in the girl's hands.", True),
        ("The girl just holds the bag, not wears it.",) * 2 + (False,),  # nothing differs
        ("Hold or wear the bag? The girl does the latter.", "Hold or wear the bag? The girl does the former.", True),
        ("It is wrong that the girl only holds the bag.", "It is right that the girl only holds the bag.", True),
        ("The girl is wearing the bag.", "The girl is holding the bag.", False),  # she may do both
        ("The bag is on the girl's back.", "The bag is under a chair, not in the girl's hands.", False),
        ("The bag is on the girl's back.", "The bag is in the girl's car.", False),
    ],
)
def test_claim_that_a_thing_is_only_held(positive, negative, false):
    """``holds`` may be true beside ``wears``, so only the words can rule it out."""
    triplet, held = Triplet("Girl", "wears", "Bag"), Triplet("Girl", "holds", "Bag")
    captions = [
        Caption(positive, "complex", "positive", 1, triplet, triplet, "", "plain"),
        Caption(negative, "complex", "negative", 1, triplet, held, "relation", "plain"),
    ]
    assert not excluded(triplet, held)
    assert (not list(checks.pairs(tuple(captions)))) is false
    other = Triplet("Girl", "interacts_with", "Bag")
    assert parse.only_held(positive, negative, other) is None


def test_negative_with_the_same_meaning_is_rejected():
    with pytest.raises(ValueError, match="means the same"):
        parse.operation("The cat is on the desk.", "A cat is on a desk.", Triplet("Cat", "on", "Desk"))


def test_positive_with_reversed_roles_is_rejected():
    with pytest.raises(ValueError, match="the positive has roles reversed: Beer acts on Girl"):
        parse.operation(
            "The girl is held by the beer.", "The beer is held by the girl.", Triplet("Girl", "holds", "Beer")
        )
