"""Plans: labels, multiplicities, shards and mirroring of a batch, on a dataset small enough to check by hand."""

import collections
import concurrent.futures
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax.data.batches.planner import BLANK, MixturePart, Planner
from naturel_jax.data.batches.recipes import RECIPES, recipe
from naturel_jax.data.items.items import Caption, Group, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.text.texts import TextCache, names_side
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from tests.helpers.caption_groups import SHOWN, TEXTS, TRIPLETS, items, items_of, processor, words
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def clip():
    return processor("clip")


def planner(clip, name="all_pairs", **changes) -> Planner:
    options = {"batch_size": 4, "shards": 1, "seed": 7, "trim_eos": 1}
    parts = changes.pop("parts", [MixturePart(items(), recipe(name))])
    return Planner(parts, clip, **options | changes)


def rows_of(plan) -> collections.Counter:
    """The image rows of a plan with everything the losses use, with ids replaced by tokens to be layout-independent."""
    images, captions = plan.image_labels, plan.caption_labels
    tokens = {int(id_): tuple(row) for id_, row in zip(captions.id_U, plan.tokens.tolist(), strict=True) if id_ >= 0}

    def captions_at(ids):
        return tuple(tokens[int(id_)] for id_ in ids if id_ >= 0)

    return collections.Counter(
        {
            (row, captions_at(positive), captions_at(negative), tuple(shows)): float(mult)
            for row, mult, positive, negative, shows in zip(plan.rows, *images[:4], strict=True)
            if row != BLANK
        }
    )


def captions_of(plan) -> collections.Counter:
    captions = plan.caption_labels
    rows = zip(plan.tokens.tolist(), captions.mult_U, captions.asserts_UA.tolist(), strict=True)
    return collections.Counter({(tuple(t), tuple(a)): float(mult) for t, mult, a in rows if mult > 0})


def test_labels_by_hand(clip):
    """A batch with all four kinds of image: the facts each shows, the captions sampled for it, and the facts and
    multiplicity of every caption."""
    plan = planner(clip, parts=[MixturePart(items(4), recipe("all_pairs"))]).plan(0)
    images, captions = plan.image_labels, plan.caption_labels
    names = {name for rows in TRIPLETS.values() for _, name in rows if name}
    text, number = words(plan, clip), {name: n for n, name in enumerate(sorted(names))}  # over all sources
    assert [row.item for row in plan.rows[:-1]] != [0, 1, 2, 3] and items_of(plan) == [0, 1, 2, 3]
    assert plan.rows[-1] == BLANK
    np.testing.assert_array_equal(images.mult_I, [4, 4, 4, 4, 16])
    sampled = collections.Counter()
    for row, positives, negatives, shows in zip(plan.rows[:-1], *images[1:4], strict=False):
        assert {number[t] for t in SHOWN[row.item]} == set(shows.tolist()) - {-1}
        triplet = next(t for t in SHOWN[row.item] if TRIPLETS[t][0][0] == text[positives[0]])
        assert [text[i] for i in positives] == [t for t, _ in TRIPLETS[triplet][::2]]
        assert [text[i] for i in negatives] == [t for t, _ in TRIPLETS[triplet][1::2]]
        sampled.update(t for t, _ in TRIPLETS[triplet])
    assert all((row == -1).all() for row in (images.positives_IK[-1], images.negatives_IK[-1], images.shows_IT[-1]))
    used = int((captions.mult_U > 0).sum())
    assert {text[u]: int(captions.mult_U[u]) for u in range(used)} == sampled
    np.testing.assert_array_equal(captions.id_U, [*range(used), *[-2] * (len(captions.id_U) - used)])
    asserts = dict(row for rows in TRIPLETS.values() for row in rows)
    for u in range(used):
        fact = asserts[text[u]]
        assert set(captions.asserts_UA[u].tolist()) - {-2} == ({number[fact]} if fact else set())


def test_sources_share_caption_rows_and_fact_numbers(clip):
    first, second = items(4, ("Cat|on|Table",)), items(4, ("Cat|under|Table",))
    parts = [MixturePart(first, recipe("all_pairs")), MixturePart(second, recipe("all_pairs"))]
    plan = planner(clip, parts=parts).plan(0)
    text = words(plan, clip)
    row = text.index("The cat is under the table.")
    assert text.count(text[row]) == 1
    assert plan.caption_labels.mult_U[row] == 4, "negative of two images, positive of two"
    shown = {s: plan.image_labels.shows_IT[n, 0] for n, s in enumerate(r.source for r in plan.rows[:-1])}
    assert shown[0] != shown[1] and set(plan.caption_labels.asserts_UA[row].tolist()) - {-2} == {shown[1]}


@pytest.mark.parametrize("name", [name for name in RECIPES if not RECIPES[name].swaps])
def test_batch_does_not_depend_on_shards_or_chunks(clip, name):
    full = planner(clip, name, batch_size=8)
    for shards, chunks in ((2, 1), (8, 1), (2, 2)):
        cut = planner(clip, name, batch_size=8, shards=shards, chunks=chunks)
        for step in (0, 5):
            one, other = full.plan(step), cut.plan(step)
            assert rows_of(one) == rows_of(other)
            assert captions_of(one) == captions_of(other)
            assert one.image_labels.mult_I.sum() == other.image_labels.mult_I.sum()
            assert not len(other.rows) % (shards * chunks) and not len(other.tokens) % (shards * chunks)


def test_batch_is_a_function_of_seed_and_step(clip):
    first, again, other = planner(clip), planner(clip), planner(clip, seed=8)
    first.plan(3)  # earlier plans do not matter
    for step in (4, 0):
        jax.tree.map(np.testing.assert_array_equal, first.plan(step)[1:], again.plan(step)[1:])
        assert list(first.plan(step).rows) == list(again.plan(step).rows)
    assert [first.items(s) for s in range(3)] != [other.items(s) for s in range(3)]


def test_captions_are_resampled_every_epoch(clip):
    plans = planner(clip, "single_pair", parts=[MixturePart(items(4), recipe("single_pair"))])
    assert len({tuple(sorted(words(plans.plan(step), clip))) for step in range(6)}) > 1


def test_rewritten_caption_asserts_nothing(clip):
    part = MixturePart(items(12, ("Cat|on|Table",)), recipe("order_shuffles"))
    plan = planner(clip, parts=[part]).plan(0)
    asserted = plan.caption_labels.asserts_UA[:, 0] >= 0
    positives, negatives = plan.image_labels.positives_IK[:-1], plan.image_labels.negatives_IK[:-1]
    assert asserted[positives].all() and not asserted[negatives].any()


def test_mixture_weights(clip):
    parts = [MixturePart(items(12), recipe("all_pairs"), 0.75), MixturePart(items(5), recipe("order_shuffles"), 0.25)]
    plans = planner(clip, parts=parts, batch_size=8)
    sampled = [pair for step in range(40) for pair in plans.items(step)]
    assert collections.Counter(source for source, _ in sampled) == {0: 240, 1: 80}
    for source, size, times in ((0, 12, 20), (1, 5, 16)):
        assert collections.Counter(n for s, n in sampled if s == source) == dict.fromkeys(range(size), times)
    plan = plans.plan(0)
    copies = [mult for row, mult in zip(plan.rows, plan.image_labels.mult_I, strict=True) if row != BLANK]
    assert sorted(copies) == [1, 1, *[4] * 6] and plan.image_labels.mult_I[-1] == sum(copies)


def test_caption_row_counts_take_few_values(clip):
    part = MixturePart(items(100), recipe("single_pair"))
    plans = planner(clip, batch_size=64, shards=4, parts=[part])
    sizes = {len(plans.plan(step).tokens) for step in range(30)}
    assert len(sizes) <= 8 and all(size % 4 == 0 and size <= 128 for size in sizes)


def test_every_source_and_seed_has_its_own_order(clip):
    """Including seeds that differ by multiples of 256."""
    parts = [MixturePart(items(), recipe("single_pair"))] * 3
    orders = {}
    for seed in (0, 1, 256, 512):
        plans = planner(clip, parts=parts, batch_size=36, seed=seed)
        for source in range(3):
            orders[seed, source] = tuple(n for s, n in plans.items(0) if s == source)
    assert len(set(orders.values())) == 12


def test_indivisible_batch_size_is_rejected(clip):
    with pytest.raises(UserError, match=r"config\.data\.batch_size is 6: not a multiple of the 4 devices"):
        planner(clip, batch_size=6, shards=4)


def test_hard_images_join_as_in_the_published_negclip(clip):
    """Every anchor is followed by one of its mined images, with a caption and negative: 2B images, 4B captions."""
    hard = [[(n + 1) % 12, (n + 5) % 12] for n in range(12)]
    part = MixturePart(items(), recipe("single_pair"), hard_images=Ragged.from_rows(hard))
    plans = planner(clip, parts=[part], batch_size=6)
    chosen = set()
    for step in range(8):
        plan = plans.plan(step)
        anchors, mined = plan.rows[::2], plan.rows[1::2]
        assert len(plan.rows) == 12 and plan.caption_labels.mult_U.sum() == 24
        assert [row.item for row in anchors] == [n for _, n in plans.items(step)]
        assert all(other.item in hard[row.item] for row, other in zip(anchors, mined, strict=True))
        assert len({row.sample for row in plan.rows}) == 12, "no two images are cropped with the same random numbers"
        chosen.update((other.item - row.item) % 12 for row, other in zip(anchors, mined, strict=True))
        assert (plan.image_labels.positives_IK >= 0).all() and (plan.image_labels.negatives_IK >= 0).all()
        text = words(plan, clip)
        for row, positive in zip(plan.rows, plan.image_labels.positives_IK, strict=True):
            assert text[positive[0]] in {t for shown in SHOWN[row.item % 4] for t, _ in TRIPLETS[shown][2::2]}
    assert chosen == {1, 5}


def test_image_without_mined_images_has_no_partner(clip):
    plans = planner(clip, parts=[MixturePart(items(), recipe("single_pair"), hard_images=Ragged.from_rows([[]] * 12))])
    np.testing.assert_array_equal(plans.plan(0).image_labels.mult_I, [1, 1, 1, 1, 0, 0, 0, 0])


def test_texts_are_in_id_order(clip):
    plans = planner(clip, "single_pair")
    for step in (0, 3):
        plan = plans.plan(step)
        assert plans.texts(step) == words(plan, clip)[: int((plan.caption_labels.id_U >= 0).sum())]


def test_groups_of_any_size_in_one_batch():
    """Plain captions mixed with many pairs: rows are padded, unknown facts match nothing, multiplicities follow."""
    plain = collect("plain", [(f"p{n}", [Group([Caption(f"caption {n}")])]) for n in range(2)])
    sizes, pairs = (1, 3), []
    for n, size in enumerate(sizes):
        negatives = [Caption(f"wrong {k}", pair=k) for k in range(size)]
        pairs.append((f"q{n}", [Group([Caption("true", f"fact:{n}")], negatives)]))
    mixed = ((plain, "positives"), (collect("pairs", pairs), "all_pairs"))
    parts = [MixturePart(table, recipe(name), 0.5) for table, name in mixed]
    plans = planner(processor("clip", ["caption true wrong 0 1 2"]), parts=parts)
    plan = plans.plan(0)
    images, captions, texts = plan.image_labels, plan.caption_labels, plans.texts(0)
    assert images.positives_IK.shape == images.negatives_IK.shape == (5, 3)
    for row, mult, positives, negatives, shows in zip(
        plan.rows[:-1], *(column[:-1] for column in images[:4]), strict=True
    ):
        positives, negatives = ([texts[i] for i in ids if i >= 0] for ids in (positives, negatives))
        if row.source == 0:
            assert (mult, positives, negatives, shows.max()) == (1, [f"caption {row.item}"], [], -1)
        else:
            size = sizes[row.item]
            assert (mult, positives) == (size, ["true"] * size)
            assert negatives == [f"wrong {k}" for k in range(size)] and shows.tolist() == [row.item]
    assert images.mult_I.tolist()[-1] == 2 + sum(sizes)
    true = texts.index("true")
    assert captions.mult_U[true] == sum(sizes) and set(captions.asserts_UA[true].tolist()) == {0, 1}
    assert (np.delete(captions.asserts_UA, true, axis=0) == -2).all()


def test_unsuitable_recipe_is_rejected_before_the_first_step(clip):
    table = collect("plain", [("image", [Group([Caption("a dog")])])])
    with pytest.raises(UserError, match=r"recipe 'all_pairs' .* does not fit plain, image 'image'"):
        planner(clip, parts=[MixturePart(table, recipe("all_pairs"))])


def test_trimming_does_not_change_embeddings_of_a_causal_tower(clip):
    """CLIP's captions are truncated, with the same embeddings as at the full context length."""
    model = Model(preset("tiny-clip"))
    params = model.init(jax.random.key(0))
    short, full = (planner(clip, trim_eos=eos).plan(0).tokens for eos in (1, None))
    assert short.shape[1] < full.shape[1] == 32 and short.shape[1] % 8 == 0
    assert ((short == 1).any(axis=1)).all()
    encode = jax.jit(model.encode_text)
    np.testing.assert_allclose(encode(params, jnp.asarray(short)), encode(params, jnp.asarray(full)), atol=1e-6)


def test_siglip_is_not_trimmed():
    """Its tower attends to padding, so truncated captions would have other embeddings."""
    siglip = processor("siglip")
    model = Model(preset("tiny-siglip"))
    assert not model.config.text.causal  # so make_pipeline passes no trim_eos
    tokens = planner(siglip, trim_eos=None).plan(0).tokens
    context = model.config.text.context
    assert tokens.shape[1] == context
    params = model.init(jax.random.key(0))
    ends = (tokens != 1).sum(axis=1, keepdims=True)  # the end token's position; padding is the same token
    changed = np.where(np.arange(context) > ends, 2, tokens)  # other padding, other embeddings
    encode = jax.jit(model.encode_text)
    assert np.abs(encode(params, jnp.asarray(tokens)) - encode(params, jnp.asarray(changed))).max() > 1e-3


@pytest.mark.parametrize("name", ["single_pair", "all_pairs"])
def test_images_are_mirrored_only_if_captions_stay_true(clip, name):
    plan = planner(clip, name, batch_size=12).plan(0)
    mirrors = {row.item % 4: row.mirror for row in plan.rows if row != BLANK}
    assert mirrors == {0: True, 1: True, 2: True, 3: False}  # only the last mentions left and right
    assert not any(row.mirror for row in planner(clip, name, batch_size=12, mirror=False).plan(0).rows)


def test_caption_that_mentions_a_side_prevents_mirroring(clip):
    table = items(4, ("Cat|on|Table",))
    table.texts[:] = [text.replace("under", "on the right of") for text in table.texts]
    plan = planner(clip, parts=[MixturePart(table, recipe("all_pairs"))]).plan(0)
    assert not any(row.mirror for row in plan.rows)


def test_full_cache_starts_over_while_other_threads_read_it(clip):
    """Every thread gets its texts' tokens, though each batch of another drops what the last one added."""
    cache = TextCache(clip, most=12)
    batches = [[*TEXTS[n : n + 8], f"left {n}"] for n in range(12)] * 10
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for texts, (tokens, sides) in zip(batches, pool.map(cache.look_up, batches), strict=True):
            np.testing.assert_array_equal(tokens, clip.tokenize(texts))
            assert sides.tolist() == [bool(re.search("left|right", text.lower())) for text in texts]


def test_sides_are_named_by_words_and_by_relations():
    assert names_side("a cup on the LEFT") and names_side("Cup|right_of|Plate")
    assert not names_side("a bright kitchen with leftovers, copyright 2014")


def test_batch_without_any_item_of_a_source(clip):
    for name in [name for name in RECIPES if not RECIPES[name].swaps]:
        rare = MixturePart(items(12), recipe(name), 0.01, Ragged.from_rows([[1]] * 12))
        parts = [MixturePart(items(12), recipe("single_pair"), 0.99), rare]
        plan = planner(clip, parts=parts).plan(0)
        assert {row.source for row in plan.rows} == {0, -1} and items_of(plan) == items_of(planner(clip).plan(0))
