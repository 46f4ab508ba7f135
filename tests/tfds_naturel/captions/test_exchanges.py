"""Bindings and positions: which photos have them, that no text tells which caption is true, and that nothing mirrors
them; in training and in the benchmarks."""

import collections
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from naturel_jax import config as c
from naturel_jax.benchmarks import naturel_exchanged, registry
from naturel_jax.data import datasets
from naturel_jax.data.batches import pipeline
from naturel_jax.data.batches.planner import BLANK, MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.training import run
from tests.helpers.caption_groups import processor
from tests.helpers.open_images_files import box_row, build_dataset, image_id, photo, row, write_photos, write_release
from tfds_naturel.captions import exchanges as wordings
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import KINDS, POLARITIES, Exchange, Triplet, facts_of, name_of
from tfds_naturel.hard_images import mining
from tfds_naturel.open_images import exchanges
from tfds_naturel.open_images.annotations import Annotation, Box, merge

LEFT, RIGHT, BOTTOM = (0.05, 0.3, 0.3, 0.7), (0.65, 0.95, 0.3, 0.7), (0.3, 0.6, 0.6, 0.95)
ATTRIBUTES = [Triplet(s, "is", a) for s in ("Chair", "Table") for a in ("Plastic", "Wooden")]
ON = [Triplet(s, r, o) for s in ("Cat", "Dog") for r in ("on", "under") for o in ("Chair", "Table")]
AT = Triplet("Chair", "at", "Table")
LISTED = exchanges.Listed(frozenset([*ATTRIBUTES, *ON, AT]))
MIDDLE = {"Cat": (0.3, 0.6, 0.3, 0.6), "Dog": (0.4, 0.7, 0.3, 0.6), "Chair": (0.1, 0.6, 0.4, 0.9)}
MIDDLE["Table"] = (0.35, 0.9, 0.45, 0.9)
APART = {"Cat": LEFT, "Chair": LEFT, "Table": RIGHT}


def annotated(*facts, boxes=MIDDLE, **also):
    """A photo that shows ``facts``, with a box for each class, and with more boxes: ``also``."""
    rows = []
    for text in facts:
        fact = Triplet.parse(text)
        first = Box(*boxes[fact.subject])
        rows.append(Annotation("a" * 16, fact, first, first if fact.relation == "is" else Box(*boxes[fact.object])))
    image = merge("a" * 16, rows)
    more = tuple((label.replace("_", " "), Box(*box)) for label, box in also.items())
    return dataclasses.replace(image, objects=(*image.objects, *more))


def claims(image, listed=LISTED):
    return {name_of(found.false) for found in exchanges.bindings(image, listed, lambda fact: True)}


# ---- Rules -----------------------------------------------------------------------------------------------------------


def test_attributes_and_relations_change_places():
    assert claims(annotated("Chair|is|Plastic", "Table|is|Wooden", boxes=APART)) == {
        "Chair|is|Wooden || Table|is|Plastic",
        "Chair|is|Plastic || Table|is|Plastic",
        "Chair|is|Wooden || Table|is|Wooden",
    }
    assert claims(annotated("Chair|is|Wooden", "Table|is|Wooden", boxes=APART)) == {
        "Chair|is|Plastic || Table|is|Wooden",
        "Chair|is|Wooden || Table|is|Plastic",
    }
    assert "Cat|under|Chair || Dog|on|Chair" in claims(annotated("Cat|on|Chair", "Dog|under|Chair"))
    assert "Cat|on|Table || Dog|on|Chair" in claims(annotated("Cat|on|Chair", "Dog|on|Table"))


def test_both_claims_say_what_joins_the_things():
    """An annotated relation, or that boxes which touch end at about the same height."""
    shown = ("Chair|is|Plastic", "Table|is|Wooden")
    at = annotated("Chair|at|Table", *shown, boxes=APART)
    beside = annotated(*shown)
    higher = annotated(*shown, boxes={"Chair": (0.1, 0.6, 0.3, 0.75), "Table": MIDDLE["Table"]})
    for image, joined in ((at, ["Chair|at|Table"]), (beside, ["Chair|beside|Table"]), (higher, [])):
        exchanged = exchanges.bindings(image, LISTED, lambda fact: True)
        (found,) = (one for one in exchanged if name_of(one.false).endswith("Chair|is|Wooden || Table|is|Plastic"))
        assert name_of(found.true) == " || ".join([*joined, *shown])
        assert name_of(found.false) == " || ".join([*joined, "Chair|is|Wooden", "Table|is|Plastic"])
    held_out = exchanges.bindings(at, LISTED, lambda fact: fact != AT)
    assert all(AT not in facts for found in held_out for facts in (found.true, found.false))


def test_what_nobody_would_write_is_not_claimed():
    """That two wear one thing, and what a person does beside where a chair is."""
    people = [Triplet(s, *said) for s in ("Girl", "Man") for said in (("wears", "Backpack"), ("holds", "Camera"))]
    seated = [Triplet(s, "at", o) for s in ("Chair", "Man") for o in ("Desk", "Table")]
    listed = exchanges.Listed(frozenset((*people, *seated)))
    everywhere = collections.defaultdict(lambda: MIDDLE["Table"])
    assert claims(annotated("Girl|wears|Backpack", "Man|holds|Camera", boxes=everywhere), listed) == {
        "Girl|holds|Camera || Man|wears|Backpack",
        "Girl|holds|Camera || Man|holds|Camera",
    }
    assert not claims(annotated("Chair|at|Table", "Man|at|Piano", boxes=everywhere), listed)
    assert not claims(annotated("Chair|at|Desk", "Man|at|Desk", boxes=everywhere), listed)


@pytest.mark.parametrize(
    "image",
    [
        annotated("Chair|is|Plastic", "Table|is|Wooden", Chair=LEFT),  # either chair could be meant
        annotated("Chair|is|Plastic", "Table|is|Wooden", Coffee_table=LEFT),  # a table by another name
        annotated("Chair|is|Plastic", "Table|is|Wooden", "Chair|is|Wooden", "Table|is|Plastic"),  # both annotated
        annotated("Chair|is|Plastic", "Cat|on|Table"),  # of different sorts
        annotated("Cat|on|Chair", "Dog|on|Table", boxes=MIDDLE | {"Chair": (0.05, 0.2, 0.7, 0.9), "Cat": LEFT}),
    ],
)
def test_photos_without_bindings(image):
    assert not any("Chair|is|Wooden || Table|is|Plastic" in claim for claim in claims(image))
    assert "Cat|on|Table || Dog|on|Chair" not in claims(image)


@pytest.mark.parametrize(
    ("clear", "is_said"),
    [
        ({"Chair": True, "Table": True}, True),
        ({"Chair": True, "Table": True, "Cat": False}, True),  # of which nothing is said
        ({"Chair": False, "Table": True}, False),
        ({"Chair": True, "Table": True, "Coffee table": True}, False),  # a table by another name, with no relation
        ({"Chair": True, "Table": True, "Stool": False}, False),
        ({"Table": True}, False),  # nobody knows whether the chair is one
    ],
)
def test_only_classes_that_the_box_file_makes_clear(clear, is_said):
    shown = annotated("Chair|is|Plastic", "Table|is|Wooden", "Chair|at|Table", boxes=APART)
    image = dataclasses.replace(shown, clear=clear)
    assert bool(claims(image)) == bool([*exchanges.positions(image)]) == is_said
    assert claims(shown) and [*exchanges.positions(shown)], "without a box file"


class Seen(str):
    """The name of a class; counts how often one is looked up."""

    count = 0

    def __hash__(self) -> int:
        type(self).count += 1
        return super().__hash__()


def test_things_that_say_nothing_are_not_compared_with_each_other(monkeypatch):
    facts = [Triplet(Seen(f"Thing {n}"), "is", "Wooden") for n in range(300)]
    image = merge("a" * 16, [Annotation("a" * 16, fact, Box(*LEFT), Box(*LEFT)) for fact in facts])
    monkeypatch.setattr(Seen, "count", 0)
    assert not [*exchanges.positions(image)]
    assert 0 < Seen.count < 300 * 50, "each with each are 90,000"


def test_facts_are_judged_once_each_and_too_many_are_refused():
    """Each is compared with the others of its image, and what both claim with all facts of it."""

    class Counted(frozenset):
        looked_up = 0

        def __contains__(self, fact: object) -> bool:
            type(self).looked_up += 1
            return super().__contains__(fact)

    box = Box(*LEFT)
    facts = [Triplet(f"Thing {n}", "is", ("Plastic", "Wooden")[n % 2]) for n in range(exchanges.MOST_FACTS + 1)]
    listed = Counted(fact._replace(object=name) for fact in facts for name in ("Plastic", "Wooden"))
    images = [merge("a" * 16, [Annotation("a" * 16, fact, box, box) for fact in shown]) for shown in (facts[1:], facts)]
    claimed = claims(images[0], exchanges.Listed(listed))
    assert len(claimed) > exchanges.MOST_FACTS**2 / 4 and Counted.looked_up <= len(listed)
    with pytest.raises(
        UserError, match=r"image a{16}: 101 different facts about things with one box; expected at most"
    ):
        claims(images[1])


def test_only_listed_triplets_are_claimed():
    unlisted = exchanges.Listed(LISTED.triplets - {Triplet("Table", "is", "Plastic")})
    image = annotated("Chair|is|Plastic", "Table|is|Wooden", boxes=APART)
    assert claims(image, unlisted) == {"Chair|is|Wooden || Table|is|Wooden"}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (LEFT, "right_of"),
        ((0.3, 0.58, 0.3, 0.7), "right_of"),  # its centre is 0.06 from the middle
        ((0.3, 0.62, 0.3, 0.7), None),  # 0.04
        ((0.5, 0.64, 0.3, 0.7), None),  # in the same half
        ((0.2, 0.68, 0.3, 0.7), "right_of"),  # a tenth of the smaller box
        ((0.05, 0.75, 0.3, 0.7), None),  # a third of it
        ((0.05, 0.3, 0.0, 0.1), "right_of"),  # and higher
    ],
)
def test_sides(box, expected):
    """Of a box whose centre is at 0.8."""
    assert exchanges.side_of(Box(*RIGHT), Box(*box)) == expected
    assert exchanges.side_of(Box(*box), Box(*RIGHT)) == (expected and "left_of")


@pytest.mark.parametrize(
    ("xmax", "expected"), [(0.2, "left_of"), (0.5, "left_of"), (0.6, None), (0.7, "right_of"), (1.0, "right_of")]
)
def test_sides_of_a_table(xmax, expected):
    """Of a box of width 0.1 at a table from 0.4 to 0.7: only the outer quarters are its sides."""
    assert exchanges.side_at(Box(xmax - 0.1, xmax, 0.1, 0.9), Box(0.4, 0.7, 0.5, 0.8)) == expected


def positions(*facts, **also):
    """What is claimed of a cat on the left, a chair in the middle, and a dog and a table on the right."""
    boxes = {"Cat": LEFT, "Dog": RIGHT, "Chair": BOTTOM, "Table": RIGHT}
    found = list(exchanges.positions(annotated(*facts, boxes=boxes, **also)))
    assert all(one.kind == "position" for one in found)
    return [(name_of(one.true), name_of(one.false)) for one in found]


def test_positions():
    at = ("Chair|at|Table || Chair|left_of|Table", "Chair|at|Table || Chair|right_of|Table")
    two = ("Cat|left_of|Dog", "Cat|right_of|Dog")
    drawn = ("Cat|left_of|Table", "Cat|right_of|Table")
    assert positions("Chair|at|Table") == [at]
    assert positions("Cat|on|Chair", "Dog|on|Table") == [two]
    assert positions("Cat|left_of|Table") == [drawn]  # as in drawn worlds
    assert not positions("Cat|on|Table")
    assert not positions("Chair|at|Table", Table=LEFT) and not positions("Cat|on|Chair", "Dog|on|Table", Cat=BOTTOM)
    assert not positions("Chair|at|Table", Bench=LEFT)  # a chair by another name


@pytest.mark.parametrize(
    ("kind", "true", "false"),
    [
        ("position", "Boy|right_of|Dog", "Boy|left_of|Dog"),
        ("position", "Boy|at|Desk || Boy|left_of|Desk", "Boy|at|Desk || Boy|right_of|Desk"),
        ("binding", "Chair|is|Plastic || Table|is|Wooden", "Chair|is|Wooden || Table|is|Plastic"),
        (
            "binding",
            "Chair|at|Table || Chair|is|Plastic || Table|is|Wooden",
            "Chair|at|Table || Chair|is|Wooden || Table|is|Wooden",
        ),
        ("binding", "Boy|on|Bench || Dog|under|Bench", "Boy|under|Bench || Dog|on|Bench"),
        ("binding", "Boy|on|Bench || Dog|on|Bench", "Boy|on|Bench || Dog|under|Table"),
        ("binding", "Boy|is|Smile || Man|is|Talk", "Boy|is|Smile || Man|is|Smile"),
    ],
)
def test_words_do_not_tell_which_claim_is_true(kind, true, false):
    """The false captions of facts are the true ones of their exchange."""
    there, back = texts_of(kind, true, false), texts_of(kind, false, true)
    assert there[::2] == back[1::2] and there[1::2] == back[::2] and len(there) >= 4
    assert all(a != b for a, b in zip(there[::2], there[1::2], strict=True))


def texts_of(kind, true, false):
    """(true, false) of all wordings."""
    return [row["text"] for row in wordings.rows(Exchange(kind, facts_of(true), facts_of(false)), 0)]


def test_words_of_positions():
    assert texts_of("position", "Boy|right_of|Dog", "Boy|left_of|Dog") == [
        *("A dog on the left and a boy on the right.", "A boy on the left and a dog on the right."),
        *("A boy and a dog, with the boy on the right.", "A boy and a dog, with the boy on the left."),
        *("A boy to the right of a dog.", "A boy to the left of a dog."),
    ]
    said = "Boy|at|Desk || Boy|left_of|Desk", "Boy|at|Desk || Boy|right_of|Desk"
    assert texts_of("position", *said) == [
        *("A boy on the left side of a desk.", "A boy on the right side of a desk."),
        *("A boy at a desk, on the left side.", "A boy at a desk, on the right side."),
    ]


def test_words_of_attributes():
    said = "{0}Chair|is|Plastic || Table|is|Wooden", "{0}Chair|is|Wooden || Table|is|Transparent"
    assert texts_of("binding", *(claim.format("") for claim in said)) == [
        *("A plastic chair and a wooden table.", "A wooden chair and a see-through table."),
        *("A wooden table and a plastic chair.", "A see-through table and a wooden chair."),
    ]
    assert texts_of("binding", *(claim.format("Chair|at|Table || ") for claim in said)) == [
        *("A plastic chair at a wooden table.", "A wooden chair at a see-through table."),
        *("A wooden table with a plastic chair.", "A see-through table with a wooden chair."),
    ]
    on = "Bottle|is|{0} || Bottle|on|Table || Table|is|Wooden"
    assert texts_of("binding", on.format("Transparent"), on.format("Wooden"))[::2] == [
        *("A clear bottle on a wooden table.", "A wooden table with a clear bottle on it."),
    ]
    held = "Dog|holds|Drum || Dog|is|{} || Drum|is|{}"
    assert texts_of("binding", held.format("Red", "Blue"), held.format("Blue", "Red")) == [
        *("A red dog holding a blue drum.", "A blue dog holding a red drum."),
        *("A red dog is holding a blue drum.", "A blue dog is holding a red drum."),
    ]
    assert texts_of("binding", "Boy|is|Smile || Man|is|Talk", "Boy|is|Smile || Man|is|Smile") == [
        *("A boy smiling and a man talking.", "A boy and a man smiling."),
        *("A boy is smiling and a man is talking.", "A boy and a man are smiling."),
    ]


def test_words_of_relations():
    assert texts_of("binding", "Boy|on|Bench || Dog|under|Bench", "Boy|on|Bench || Dog|on|Bench") == [
        *("A boy on a bench and a dog under it.", "A boy and a dog on a bench."),
        *("A boy is on a bench and a dog is under it.", "A boy and a dog are on a bench."),
        *("A bench with a boy on it and a dog under it.", "A bench with a boy and a dog on it."),
    ]
    assert texts_of("binding", "Girl|wears|Handbag || Man|wears|Backpack", "Girl|holds|Drum || Man|inside_of|Car") == [
        *("A girl with a handbag and a man wearing a backpack.", "A girl holding a drum and a man in a car."),
        *("A girl has a handbag and a man is wearing a backpack.", "A girl is holding a drum and a man is in a car."),
    ]


# ---- A dataset of photos ---------------------------------------------------------------------------------------------

PHOTOS = 200
CROWDED = range(4, 200, 20)  # by the box file, these photos have two chairs


def _rows(n):
    """Chairs at tables of one of two materials each, or a cat and a dog on them; sides change as well."""
    if n % 4 < 2:
        (one, other), sides = (pair[:: 1 if n % 4 else -1] for pair in (("Plastic", "Wooden"), (LEFT, RIGHT)))
        attributes = row(n, "Chair", "is", one, sides[0]), row(n, "Table", "is", other, sides[1])
        return [*attributes, row(n, "Chair", "at", "Table", *sides)]
    first, second = ("Cat", "Dog") if n % 4 == 2 else ("Dog", "Cat")
    return [
        row(n, first, "on", "Chair", MIDDLE[first], MIDDLE["Chair"]),
        row(n, second, "on", "Table", MIDDLE[second], MIDDLE["Table"]),
    ]


def _build(folder, lines, images, boxes=()):
    """The dataset of photos with these annotation rows and further boxes; ``images``: number -> JPEG."""
    write_release(folder / "annotations", lines, images, boxes=boxes)
    write_photos(folder, images)
    return tfds.builder_from_directory(build_dataset(folder, folder / "data"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    lines = [line for n in range(PHOTOS) for line in _rows(n)]
    images = {n: photo(n, 120, 90) for n in range(PHOTOS)}
    return _build(tmp_path_factory.mktemp("exchanged"), lines, images, [box_row(n, "Chair", BOTTOM) for n in CROWDED])


def _captions(builder, split):
    """(image id, caption row) of each binding and position."""
    for example in builder.as_data_source(split):
        columns = example["captions"]
        for n, kind in enumerate(columns["kind"]):
            if KINDS[kind] in ("binding", "position"):
                yield example["image_id"].decode(), {name: column[n] for name, column in columns.items()}


def test_each_text_and_claim_is_true_as_often_as_false(built):
    for split in built.info.splits:
        texts, facts = collections.Counter(), collections.Counter()
        for _, caption in _captions(built, split):
            sign = 1 if POLARITIES[caption["polarity"]] == "positive" else -1
            texts[caption["text"]] += sign
            facts[caption["asserts"]] += sign
        assert texts and not any(texts.values()) and not any(facts.values())


def test_a_second_box_of_a_class_leaves_its_photo_out(built):
    """Of the groups of bindings and positions only."""
    described = {name for split in built.info.splits for name, _ in _captions(built, split)}
    every = {example["image_id"].decode() for split in built.info.splits for example in built.as_data_source(split)}
    crowded = {image_id(n) for n in CROWDED}
    like_them = {image_id(n) for n in range(0, PHOTOS, 4)} - crowded
    assert crowded < every and not crowded & described and len(described & like_them) > len(like_them) / 2


def test_card_counts_them(built):
    counted = built.info.metadata["exchanges"]["train"]
    found = collections.Counter(
        (KINDS[caption["kind"]], caption["asserts"].decode())
        for _, caption in _captions(built, "train")
        if POLARITIES[caption["polarity"]] == "positive" and not caption["paraphrase"]
    )
    assert found == {(kind, name): n for kind, names in counted.items() for name, n in names.items()}
    by_relation = collections.Counter()
    for (kind, name), number in found.items():
        by_relation[kind, wordings.relations_of(facts_of(name))] += number
    relations = by_relation.keys()
    assert relations == {("binding", "is"), ("binding", "on"), ("position", "left_of"), ("position", "right_of")}
    card = (built.data_path / "README.md").read_text()
    for kind, relation in relations:
        assert f"| {kind} | {escape.markdown(relation)} | {by_relation[kind, relation]} |" in card


def _source(built, name):
    data_dir = str(built.data_path.parents[2])
    return datasets.open_source("naturel/photos", data_dir, "train", kind=recipe(name).kind)


def _planner(source, name, hard_images=None):
    clip = processor("clip", list(source.items.texts))
    part = MixturePart(source.items, recipe(name), hard_images=hard_images)
    return Planner([part], clip, batch_size=8, shards=1, seed=0, trim_eos=None)


def test_recipes_draw_only_from_groups_of_their_kind(built):
    kinds = {caption["text"].decode(): KINDS[caption["kind"]] for _, caption in _captions(built, "train")}
    images = collections.defaultdict(set)
    for name, caption in _captions(built, "train"):
        images[KINDS[caption["kind"]]].add(name)
    for name, kind in (("bindings", "binding"), ("positions", "position")):
        source = _source(built, name)
        planner = _planner(source, name)
        seen = set()
        for step in range(3 * len(source.items) // 8):
            assert {kinds[text] for text in planner.texts(step)} == {kind}
            seen |= {source.items.image_ids[n] for _, n in planner.items(step)}
        assert seen == images[kind]
    for name in ("single_pair", "all_pairs", "two_pairs", "order_shuffles"):
        source = _source(built, name)
        assert not kinds.keys() & set(source.items.texts) and len(source.items) == len(source.items.image_ids)


def test_no_image_with_sides_in_its_captions_is_mirrored(built):
    """Images of bindings may be mirrored."""
    planner = _planner(_source(built, "positions"), "positions")
    rows = [r for step in range(20) for r in planner.plan(step).rows if r != BLANK]
    assert rows and not any(r.mirror for r in rows)
    assert all(r.mirror for r in _planner(_source(built, "bindings"), "bindings").plan(0).rows if r != BLANK)


def test_mined_images_without_such_captions_do_not_join(built, tmp_path):
    """And those that do are not mirrored either."""
    source = _source(built, "positions")
    names = list(source.items.image_ids)
    mining.save(tmp_path / "hard.parquet", ((name, "", names, ["nearest"] * len(names)) for name in names))
    hard = pipeline._hard_images("main", str(tmp_path / "hard.parquet"), source.items, "")
    left_out = set(source.items.left_out.tolist())
    assert left_out and all(set(numbers).isdisjoint(left_out) for numbers in hard)
    rows = [r for step in range(5) for r in _planner(source, "positions", hard).plan(step).rows if r != BLANK]
    assert len(rows) == 5 * 8 * 2 and not any(r.mirror for r in rows)


def test_sources_without_them_are_refused(built, tmp_path):
    (tmp_path / "a.csv").write_text("filepath,caption\na.jpg,a cat\n")
    with pytest.raises(UserError, match=r"csv:.* has no captions of kind 'binding'"):
        datasets.open_source(f"csv:{tmp_path}/a.csv", str(tmp_path), "train", kind="binding")


@pytest.mark.parametrize("name", ["naturel_bindings", "naturel_positions"])
def test_benchmarks(built, name):
    (benchmark,) = registry.read([name], naturel=Path(built.data_path))
    items = benchmark.items
    assert items and not benchmark.problems
    for item in items:
        assert len(item.images) == len(item.captions) == 2 and item.images[0] != item.images[1]
    blind = [np.tile(np.random.default_rng(n).random(2), (2, 1)) for n in range(len(items))]
    perfect = [np.eye(2)] * len(items)
    guess = benchmark.guess(items)
    chance = {"pair": 1 / 2, "text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
    assert {score: guess[f"{name}/{score}"] for score in chance} == pytest.approx(chance)
    half = [np.array([[1.0, 0.5], [0.9, 0.8]])] * len(items)  # the second photo prefers the other's caption
    for cosines, pair, group in ((blind, 0.5, 0), (perfect, 1, 1), (half, 0.5, 0)):
        scores = benchmark.score(items, cosines)
        assert (scores[f"{name}/pair"].value, scores[f"{name}/group"].value) == (pair, group)
        assert scores[f"{name}/pair/seen"].count == len(items)  # the few facts of this dataset are all trained on


def test_unseen_are_those_that_training_does_not_claim(built, tmp_path):
    folder = shutil.copytree(built.data_path, tmp_path / "4.1.0")
    metadata = json.loads((folder / "metadata.json").read_text())
    trained = metadata["exchanges"]["train"]["binding"]
    del trained["Chair|at|Table || Chair|is|Plastic || Table|is|Wooden"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    tags = [item.tags for item in naturel_exchanged.BINDINGS.read(folder).items]
    assert {tag["trained"] for tag in tags if tag["relation"] == ("is",)} == {"unseen"}
    assert {tag["trained"] for tag in tags if tag["relation"] == ("on",)} == {"seen"}


# ---- Learning --------------------------------------------------------------------------------------------------------


def _painted(n: int, left: str) -> bytes:
    """A photo with a red square, the chair, and a blue one, the table; ``left`` is the class on the left."""
    pixels = simplejpeg.decode_jpeg(photo(n, 120, 90)).copy() // 3 + 80
    for label, colour in (("Chair", (255, 0, 0)), ("Table", (0, 0, 255))):
        xmin, xmax, ymin, ymax = LEFT if label == left else RIGHT
        pixels[int(90 * ymin) : int(90 * ymax), int(120 * xmin) : int(120 * xmax)] = colour
    return simplejpeg.encode_jpeg(pixels)


@pytest.mark.proof
def test_positions_are_learned(tmp_path):
    """By a tiny model from scratch, in photos that it has not seen; one that ignores the photos scores 0.5."""
    sides = [("Chair", "Table") if n % 2 else ("Table", "Chair") for n in range(2 * PHOTOS)]
    boxes = [{left: LEFT, right: RIGHT} for left, right in sides]
    lines = [row(n, "Chair", "at", "Table", box["Chair"], box["Table"]) for n, box in enumerate(boxes)]
    images = {n: _painted(n, left) for n, (left, _) in enumerate(sides)}
    config = c.base()
    config.preset, config.data.dir = "tiny-clip", str(_build(tmp_path, lines, images).data_path.parents[2])
    config.data.mixture.main = c.part("naturel/photos", "positions")
    config.data.batch_size, config.data.crop_scale, config.duration = 32, (0.8, 1.0), "70 steps"
    config.optim.update({"lr": 1e-3, "warmup": "5%", "weight_decay": 0.01, "clip_norm": 1.0})
    config.eval.naturel, config.eval.benchmarks, config.eval.during = "naturel/photos", ("naturel_positions",), {}
    config.tensorboard, config.compute.unroll = False, True
    scores = run.run(c.load(config), tmp_path / "run").scores
    assert scores["naturel_positions/pair"] > 0.8
