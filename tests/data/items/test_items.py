"""Caption groups of any size as tables, and both versions of NatuRel's on-disk format."""

import numpy as np
import pytest

from naturel_jax.data.items import prepared
from naturel_jax.data.items.items import Caption, Group, collect
from naturel_jax.data.items.prepared import caption_groups
from tests.helpers.caption_groups import SHOWN, TRIPLETS, items
from tfds_naturel.common.errors import UserError


def texts(table, captions, group):
    return [table.texts[captions.text_C[row]] for row in captions.rows(group)]


def pairs(table, group):
    """The pairs of a group as texts."""
    positives, negatives = table.pairs(np.array([group]))
    return [
        (table.texts[table.positives.text_C[p]], table.texts[table.negatives.text_C[n]])
        for p, n in zip(positives[0], negatives[0], strict=True)
    ]


def test_groups_of_any_size():
    plain = Group([Caption("a dog")])
    many = Group([Caption("b", pair=1), Caption("a")], [Caption("y", pair=1), Caption("x"), Caption("z", pair=2)])
    one = Group([Caption("true")], [Caption(f"wrong {n}", pair=n) for n in range(5)])
    table = collect("any", [("first", [plain, many]), ("second", [one])])
    assert len(table) == 2 and table.groups_N1.tolist() == [0, 2, 3]
    assert [texts(table, table.positives, g) for g in range(3)] == [["a dog"], ["a", "b"], ["true"]]
    assert [texts(table, table.negatives, g) for g in range(2)] == [[], ["x", "y", "z"]]
    assert [table.image_of(g) for g in range(3)] == ["first", "first", "second"]
    assert pairs(table, 0) == [] and pairs(table, 1) == [("a", "x"), ("b", "y")]  # z is not paired with a positive
    assert pairs(table, 2) == [("true", f"wrong {n}") for n in range(5)]


def test_pairs_of_several_groups_are_those_of_each():
    one = Group([Caption("true")], [Caption(f"wrong {n}", pair=n) for n in range(3)])
    many = Group([Caption("b", pair=1), Caption("a")], [Caption("y", pair=1), Caption("x"), Caption("z", pair=2)])
    table = collect("any", [("first", [one, many, Group([Caption("plain")])])])
    groups = np.array([1, 2, 0, 1])
    for side, of_all in enumerate(table.pairs(groups)):
        expected = [table.pairs(groups[n : n + 1])[side][0].tolist() for n in range(4)]
        assert [of_all[n].tolist() for n in range(4)] == expected and list(map(len, expected)) == [2, 0, 3, 2]


def test_image_shows_the_facts_its_positives_assert():
    first = Group([Caption("one", "f"), Caption("two", "g")], [Caption("three", "h")])
    table = collect("facts", [("a", [first, Group([Caption("four")])]), ("b", [Group([Caption("one", "k")])])])
    shown = [[table.facts[fact] for fact in table.shows[n]] for n in range(2)]
    assert shown == [["f", "g"], ["k"]]
    asserted = {text: {table.facts[fact] for fact in table.asserts[n]} for n, text in enumerate(table.texts)}
    assert asserted == {"one": {"f", "k"}, "two": {"g"}, "three": {"h"}, "four": set()}
    assert table.shows.widest == 2 and table.asserts.widest == 2


def test_naturel_groups_of_eight_captions():
    table = items(4)
    for n, shown in enumerate(SHOWN):
        assert [table.facts[fact] for fact in table.shows[n]] == shown
        for g, triplet in zip(range(*table.groups_N1[n : n + 2]), shown, strict=True):
            captions = [text for text, _ in TRIPLETS[triplet]]
            assert pairs(table, g) == list(zip(captions[::2], captions[1::2], strict=True))
            assert len(table.positives.rows(g, "simple")) == 1 and len(table.negatives.rows(g, "complex")) == 3
            assert table.attribute_G[g] == ("|is|" in triplet)


def test_error_names_an_image_without_captions(monkeypatch, tmp_path):
    records = [{"image_id": b"b", "captions": {"text": []}}]
    monkeypatch.setattr(prepared, "open_split", lambda directory, split: prepared.Split(directory, records))
    with pytest.raises(UserError, match=r"tiny, image 'b': no captions"):
        prepared.open_source("tiny", "train", tmp_path)
    with pytest.raises(UserError, match="tiny: no images"):
        collect("tiny", [])


def on_disk(rows, **columns):
    """A decoded example with rows of (triplet, asserts, pair, polarity, text)."""
    names = ("triplet", "asserts", "pair", "polarity", "text")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) | columns
    columns["paraphrase"] = [0] * len(rows)
    columns |= {name: [text.encode() for text in columns[name]] for name in ("triplet", "asserts", "text")}
    return {"image_id": b"image", "captions": columns | {"kind": [min(row[2], 1) for row in rows]}}


def test_groups_are_by_number_with_or_without_a_triplet():
    rows = [("", "coco:7", 0, 1, "a b c"), ("", "", 0, 0, "b a c"), ("", "", 1, 0, "c b a")]
    rows += [("", "coco:7", 0, 1, "d e"), ("", "", 0, 0, "e d")]
    first, second = caption_groups(on_disk(rows, group=[0, 0, 0, 1, 1]))
    table = collect("coco", [("image", [first, second])])
    assert pairs(table, 0) == [("a b c", "b a c"), ("a b c", "c b a")] and pairs(table, 1) == [("d e", "e d")]
    assert table.facts == ["coco:7"] and table.shows[0].tolist() == [0] and not table.attribute_G.any()
