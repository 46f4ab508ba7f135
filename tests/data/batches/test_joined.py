"""Images that are joined with their captions, hard images with exchanged captions, and batches in turns."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.batches.stages import HostCrops
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items import decoded_writer, tags
from naturel_jax.data.items.items import Caption, Group, Source, Tags, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.random.draws import generator
from naturel_jax.models.presets import preset
from tests.helpers.caption_groups import SHOWN, TRIPLETS, items, jpeg, mesh, processor
from tfds_naturel.common.errors import UserError

SIDES = [(34, 30), (27, 35), (32, 32)]  # width, height: so small that decoded images have all pixels
CROPS = Crops(24, (0.8, 1.0))


@pytest.fixture(scope="module")
def clip():
    return processor("clip")


def source(images: int = 12) -> Source:
    files = [jpeg(n, *SIDES[n % 3]) for n in range(images)]
    return Source(items(images), files.__getitem__)


def planner(clip, *parts: MixturePart, batch_size: int = 4, **options) -> Planner:
    return Planner(parts, clip, batch_size=batch_size, shards=1, seed=7, trim_eos=1, **options)


def sampled(plans: Planner, step: int):
    """For each image row of a step: the row, its positives and its negatives."""
    labels, texts = plans.plan(step).image_labels, plans.texts(step)
    for row, positives, negatives in zip(plans.plan(step).rows, labels.positives_IK, labels.negatives_IK, strict=True):
        yield row, *([texts[n] for n in ids if n >= 0] for ids in (positives, negatives))


# ---- Joined images ---------------------------------------------------------------------------------------------------


def true_of(item: int) -> set[str]:
    return {t if t.endswith(".") else f"{t}." for shown in SHOWN[item % 4] for t, _ in TRIPLETS[shown][::2]}


def test_captions_of_joined_images(clip):
    """Both orders of the first ones, then further ones; the negative has two words exchanged between the halves."""
    plans = planner(clip, MixturePart(items(), recipe("clic")))
    partners, orders, missing = set(), set(), 0
    for step in range(30):
        for row, (first, swapped, *further), negatives in sampled(plans, step):
            pairs = {f"{a} {b}": (a, b) for a in true_of(row.item) for b in true_of(row.joined)}
            pairs |= {f"{b} {a}": (b, a) for a, b in pairs.values()}
            assert swapped == " ".join(pairs[first][::-1]) and set(further) <= pairs.keys() and len(further) == 2
            missing += not negatives
            for negative in negatives:
                bag, other = (collections.Counter(re.findall(r"[\w']+", text.lower())) for text in (first, negative))
                assert bag == other and negative not in {first, swapped, *further}
            partners.add((row.item, row.joined))
            orders.add(first.startswith(tuple(true_of(row.item))))
        assert plans.plan(step).caption_labels.asserts_UA.max() == -2, "a joined caption asserts nothing"
        assert all(row.item != row.joined for row, *_ in sampled(plans, step))
        sides = {row.mirror for row, *_ in sampled(plans, step) if 3 in (row.item % 4, row.joined % 4)}
        assert sides <= {False}, "no half is mirrored if a caption of either mentions left or right"
    assert len(partners) > 60 and orders == {True, False} and missing < 24, "some captions have the same words"


def exchanged(first: str, second: str, *found) -> set[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return {tags.exchange((first, second), found, rng) for _ in range(40)}


def test_words_that_are_exchanged():
    cat, dog = "red cat on a mat", "blue dog on a mat"
    places = [[(0, 3, 1), (4, 7, 0), (13, 16, 0)], [(0, 4, 1), (5, 8, 0), (14, 17, 0)]]
    nouns, colours = ("red dog on a mat", "blue cat on a mat"), ("blue cat on a mat", "red dog on a mat")
    assert exchanged(cat, dog, *places) == {nouns, colours}, "a word that both have stays"
    assert exchanged("a cat", "two dogs", [], []) == {
        *(("two cat", "a dogs"), ("dogs cat", "two a"), ("a two", "cat dogs"), ("a dogs", "two cat"))
    }
    assert exchanged("a cat", "A cat", [], []) == {("a cat", "A cat")}


def test_nouns_of_facts_are_known_without_a_tagger():
    text, facts = "A young boy sits on a wooden table.", ("Boy|on|Table", "Table|is|Wooden")
    named = {(text[a:b], kind) for a, b, kind in tags.named(text, facts)}
    assert named == {("young boy", 0), ("table", 0), ("wooden", 1)}
    assert tags.named(text, ("a boy on a table",)) == []


def test_words_of_a_tagged_table_are_exchanged(clip):
    """Without facts, the tags say which words are nouns: here the last of each caption."""
    texts = ["red one", "blue two", "green three"]
    table = collect("tagged", [(text, [Group([Caption(text)])]) for text in texts])
    places = [[text.index(" ") + 1, len(text), 0] for text in texts]
    table = dataclasses.replace(table, tags=Tags(Ragged.from_rows(places), np.ones(3, bool), "by hand"))
    halves = np.arange(3), np.array([1, 2, 0])
    (true, sentences), (_, false) = recipe("joined").sample_joined(table, *halves, generator(0, 0, 0))
    assert true.lengths.tolist() == [2, 2, 2] and sentences[:2] == ["red one. blue two.", "blue two. red one."]
    assert set(false[0].split(". ")) <= {"red two", "red two.", "blue one", "blue one."} and len(false) == 3


def pixels_of(data: Source, plan, columns: dict) -> np.ndarray:
    load = HostCrops([data], CROPS).loader(7)
    rows = plan.rows.__class__(**vars(plan.rows) | columns)
    return load(rows, np.arange(len(rows)))[0].astype(float)


def test_pixels_of_joined_images(clip, tmp_path):
    """Each half is the crop that the image alone would get, squeezed: the mean of two rows or columns."""
    data, halves = source(), set()
    plan = planner(clip, MixturePart(data.items, recipe("joined")), batch_size=12).plan(0)
    none = {"joined_I": np.full(12, -1)}
    first = pixels_of(data, plan, none)
    second = pixels_of(data, plan, none | {"item_I": plan.rows.joined_I, "sample_I": plan.rows.sample_I + 1})
    joined = pixels_of(data, plan, {})
    for n, row in enumerate(plan.rows):
        (w, h), (w2, h2) = SIDES[row.item % 3], SIDES[row.joined % 3]
        axis = 0 if w * w2 >= h * h2 else 1
        squeezed = [np.moveaxis(image[n], axis, 0).reshape(12, 2, 24, 3).mean(1) for image in (first, second)]
        np.testing.assert_allclose(np.moveaxis(joined[n], axis, 0), np.concatenate(squeezed), atol=0.51)
        halves.add(axis)
    assert halves == {0, 1}
    np.testing.assert_array_equal(pixels_of(decoded_writer.decode(data, CROPS, tmp_path), plan, {}), joined)


def test_a_joined_row_whose_second_image_is_broken_is_replaced(clip):
    data = source()
    rows = planner(clip, MixturePart(data.items, recipe("joined"))).plan(0).rows
    bad = rows[1].joined
    assert bad not in {row.item for row in rows} | {rows[2].joined}
    broken = Source(data.items, lambda n: b"" if n == bad else data.read_image(n))
    images, (replaced,) = HostCrops([broken], CROPS).loader(7)(rows, np.arange(4))
    assert (replaced.row, replaced.by, replaced.name) == (1, 2, f"tiny/image{bad}")
    np.testing.assert_array_equal(images[[0, 2, 3]], HostCrops([data], CROPS).loader(7)(rows, np.array([0, 2, 3]))[0])


# ---- Batches in turns ------------------------------------------------------------------------------------------------


def test_parts_take_turns_by_whole_batches(clip):
    parts = MixturePart(items(), recipe("clic"), 1.0), MixturePart(items(), recipe("positives"), 2.0)
    plans = planner(clip, *parts, whole_batches=True)
    steps = [plans.items(step) for step in range(9)]
    assert all(len({s for s, _ in step}) == 1 for step in steps)
    assert collections.Counter(step[0][0] for step in steps) == {0: 3, 1: 6}
    own = [n for step in steps for s, n in step if s == 0]
    assert sorted(own) == list(range(12)), "three batches of four are an epoch"


# ---- Hard images with exchanged captions -----------------------------------------------------------------------------


def test_hard_images_with_exchanged_captions(clip):
    """A hard image shows what the anchor's negative asserts, or, if that is a denial, not what its positive does."""
    hard = Ragged.from_rows([range(12)] * 12)
    part = MixturePart(items(), recipe("single_pair"), hard_images=hard, exchanged=True)
    plans, asserted = planner(clip, part, batch_size=12), dict(row for rows in TRIPLETS.values() for row in rows)
    seen = collections.Counter()
    for step in range(8):
        labels, rows = plans.plan(step).image_labels, list(sampled(plans, step))
        anchors = {row.sample: (row, *captions) for row, *captions in rows if row.sample % 2 == 0 and captions[0]}
        hard = [(row, *captions) for row, *captions in rows if row.sample % 2 and captions[0]]
        assert len(anchors) == 12 and plans.plan(step).caption_labels.mult_U.sum() == 24
        assert labels.exchanged_I.tolist() == [bool(row.sample % 2 and captions[0]) for row, *captions in rows]
        for row, (positive,), (negative,) in hard:
            anchor, (true,), (false,) = anchors[row.sample - 1]
            assert (positive, negative) == (false, true)
            facts = [set(SHOWN[image.item % 4]) for image in (anchor, row)]
            assert asserted[false] in facts[1] or not asserted[false]
            assert asserted[true] in facts[0] and asserted[true] not in facts[1]
            seen[asserted[false]] += 1
    assert seen.keys() == {"Cat|under|Table", "Cat|on|Table", ""}
    assert len(hard) < 12, "no image shows a table on a cat"


def config(**fields):
    raw = c.base()
    raw.preset, raw.data.mixture.main = "tiny-clip", c.part("tiny", fields.pop("recipe", "single_pair"))
    for name, value in fields.items():
        raw.data[name] = value
    return raw


def test_pipeline_of_a_config(clip):
    """The same from any step on."""
    raw = config(turns="batches", batch_size=4)
    raw.data.mixture = {"joined": c.part("tiny", "clic"), "plain": c.part("tiny", "positives")}
    data, of = source(), preset("tiny-clip")
    pipelines = [make_pipeline(c.load(raw), [data] * 2, of, clip, mesh(1)) for _ in range(2)]
    first, again = (list(pipeline.batches(start, 4)) for pipeline, start in zip(pipelines, (0, 2), strict=True))
    for one, other in zip(first[2:], again, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.tokens, other.tokens)
    assert [int(batch.caption_labels.mult_U.sum()) for batch in first][1::2] == [4, 4]
    assert {batch.image_labels.positives_IK.shape for batch in first} == {(4, 4)}


@pytest.mark.parametrize(
    ("part", "others", "expected"),
    [
        ({"recipe": "clic", "hard_images": "a.parquet"}, {}, r"main\.hard_images is 'a\.parquet', but .*'clic' joins"),
        ({"recipe": "clic"}, {"cache": "embeddings"}, r"data\.cache is 'embeddings', but .*recipe 'clic' joins images"),
        ({"recipe": "clic"}, {"cache_captions": True}, r"data\.cache_captions is True, but .*recipe is 'clic'"),
        ({"hard_images_every": 5}, {}, r"main\.hard_images_every is 5, but .*main\.hard_images is ''; name the file"),
        ({"hard_images_every": -1}, {}, r"main\.hard_images_every is -1; expected a number of at least 0"),
        ({"hard_captions": "exchanged"}, {}, r"main\.hard_captions is 'exchanged', but .*main\.hard_images is ''"),
        (
            {"hard_captions": "exchanged", "hard_images": "a.parquet", "recipe": "two_pairs"},
            {},
            r"main\.hard_captions is 'exchanged', but .*main\.recipe is 'two_pairs'",
        ),
        ({"hard_captions": "swapped"}, {}, r"main\.hard_captions is 'swapped'; expected one of 'own', 'exchanged'"),
        ({}, {"turns": "steps"}, r"data\.turns is 'steps'; expected one of 'images', 'batches'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(part, others, expected):
    raw = config(crop_scale=(1.0, 1.0), **others)
    raw.data.mixture.main.update(part)
    with pytest.raises(UserError, match=expected):
        c.load(raw)


@pytest.mark.parametrize("terms", [{"exchanged_images": {}}, {}])
def test_exchanged_captions_have_their_term_and_the_term_has_them(terms):
    raw = config()
    raw.objective.terms = terms
    if not terms:
        raw.data.mixture.main.hard_images, raw.data.mixture.main.hard_captions = "mined.jsonl", "exchanged"
    with pytest.raises(UserError, match=r"terms has 'exchanged_images' if, and only if, a part of .* set both or neit"):
        c.load(raw)
