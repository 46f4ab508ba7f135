"""Which place a negative claims, and whether it claims any, for sentences whose meaning is plain to a reader."""

import dataclasses

import numpy as np
import pytest

from tfds_naturel.captions import checks, grammar, parse
from tfds_naturel.common.schema import Triplet

CASES = [
    # The place is replaced.
    ("Cat|on|Desk", "Here is a desk with a cat {on|beside} it.", "Cat|beside|Desk"),
    ("Cat|on|Desk", "Upon the desk, or rather, {above|below} it, the cat.", "Cat|under|Desk"),
    ("Cat|on|Desk", "{On top of|Inside} the desk is a cat.", "Cat|inside_of|Desk"),
    ("Cat|on|Desk", "The desk is {under|next to} the cat.", "Cat|beside|Desk"),
    ("Cat|on|Desk", "The cat has the desk {under|beside} it.", "Cat|beside|Desk"),
    ("Cat|on|Desk", "What the cat has {beneath|above} it is a desk.", "Cat|under|Desk"),
    ("Cat|on|Desk", "This desk has a cat {on top|underneath}.", "Cat|under|Desk"),
    ("Cat|under|Desk", "The seat of the desk is {above|below} the cat.", "Cat|on|Desk"),
    ("Man|at|Desk", "The desk is {next to|under} the man.", "Man|on|Desk"),
    ("Man|at|Desk", "You'll find the man {at|under} the desk.", "Man|under|Desk"),
    ("Man|inside_of|Van", "In fact, a man is {in|behind} the van.", "Man|beside|Van"),
    # A false place is denied by the positive, the true one by the negative.
    ("Cat|on|Desk", "You'd look in vain for the cat {under|on} the desk.", None),
    ("Cat|on|Desk", "Don't expect to find the cat {beside|on} the desk.", None),
    ("Man|inside_of|Van", "Neither hide nor hair of the man is to be found {behind|in} the van.", None),
    # Two places change over: either is claimed, the other denied.
    ("Cat|on|Desk", "The cat isn't {under|on} the desk but {on|under} it.", "Cat|under|Desk"),
    ("Cat|on|Desk", "Look for the cat {on|under} the desk, not {under|on} it.", "Cat|under|Desk"),
    ("Cat|on|Desk", "Nobody looking {under|on} the desk will find the cat, which is {on|under} it.", "Cat|under|Desk"),
    ("Cat|on|Desk", "Were the cat {beside|on} the desk, it would not be {on|beside} it.", "Cat|beside|Desk"),
    ("Cat|on|Desk", "The cat has a desk {under|beside} it rather than {beside|under} it.", "Cat|beside|Desk"),
    ("Cat|under|Desk", "Instead of {on|under} the desk, the cat is {under|on} it.", "Cat|on|Desk"),
    # The sentence is reversed by a word that is no place.
    ("Cat|on|Desk", "It would be {wrong|right} to say that the cat is under the desk.", "Cat|under|Desk"),
    ("Cat|on|Desk", "It would be {right|wrong} to say that the cat is on the desk.", None),
    ("Man|at|Desk", "The woman and the man {aren't|are} far apart, and he is at the desk.", None),
    # The two nouns change over by words that stand for them.
    ("Cat|on|Desk", "Here are a desk and a cat, the {former|latter} beneath the {latter|former}.", "Desk|on|Cat"),
    ("Cat|on|Desk", "From {top to bottom|bottom to top}, these are a cat and a desk.", "Desk|on|Cat"),
]


def captions(frame: str, side: int) -> str:
    """``frame`` with each "{positive|negative}" replaced by one side."""
    for part in frame.split("{")[1:]:
        choice = part.split("}")[0]
        frame = frame.replace("{" + choice + "}", choice.split("|")[side], 1)
    return frame


@pytest.mark.parametrize(("triplet", "frame", "claim"), CASES)
def test_the_claim_of_a_negative(triplet, frame, claim):
    operation, read = parse.operation(captions(frame, 0), captions(frame, 1), Triplet.parse(triplet))
    assert read == (Triplet.parse(claim) if claim else None)
    assert (operation == "denial") is (claim is None)


@pytest.mark.parametrize(
    ("triplet", "frame", "message"),
    [
        ("Cat|on|Desk", "The cat is {on|atop} the desk.", "means the same|names the place of its positive"),
        ("Man|at|Desk", "The man is {at|beside} the desk.", "names the place of its positive in other words"),
        ("Cat|on|Desk", "A cat is {on|beside} the desk and {beside|on} it.", "name the same places and deny none"),
    ],
)
def test_negatives_that_are_not_false_are_refused(triplet, frame, message):
    with pytest.raises(ValueError, match=message):
        parse.operation(captions(frame, 0), captions(frame, 1), Triplet.parse(triplet))


def test_a_negative_that_asserts_another_place_than_its_text_is_a_problem():
    triplet = Triplet("Cat", "on", "Desk")
    positive, negative = grammar.write(triplet, np.random.default_rng(0))[2:4]
    positive = dataclasses.replace(positive, text="The cat is on the desk.")
    claims = {place: Triplet("Cat", place, "Desk") for place in ("under", "beside")}
    wrong, right = (
        dataclasses.replace(negative, text="The cat is under the desk.", operation="relation", asserts=claims[place])
        for place in ("beside", "under")
    )
    assert list(checks.pairs((positive, wrong))) == [
        (wrong, "asserts Cat|beside|Desk, but the text says Cat|under|Desk")
    ]
    assert list(checks.pairs((positive, right))) == []
