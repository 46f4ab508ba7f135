"""Recipes, plans and pictures of a batch, on a dataset small enough to work out by hand."""

import collections
import io

import absl.flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image
from scipy.stats import chisquare

from naturel_jax.data.augment import Augment
from naturel_jax.data.items import Items, Source, collect
from naturel_jax.data.pipeline import Pipeline
from naturel_jax.data.planner import BLANK, Part, Planner
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.data.recipes import RECIPES, recipe
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.sharding import AXES, batch_sharding

# triplet -> its eight captions, (text, what it asserts): positive and negative of the simple pair, then of the others.
TRIPLETS = {
    "Cat|on|Table": [
        ("cat on table", "Cat|on|Table"),
        ("table on cat", "Table|on|Cat"),
        ("The cat is on the table.", "Cat|on|Table"),
        ("The table is on the cat.", "Table|on|Cat"),
        ("Upon the table there is a cat.", "Cat|on|Table"),
        ("The cat is under the table.", "Cat|under|Table"),
        ("There is a cat that sits on a table.", "Cat|on|Table"),
        ("There is no cat on the table.", ""),
    ],
    "Cat|under|Table": [
        ("cat under table", "Cat|under|Table"),
        ("table under cat", "Table|under|Cat"),
        ("The cat is under the table.", "Cat|under|Table"),
        ("The cat is on the table.", "Cat|on|Table"),
        ("Beneath a table lies a cat.", "Cat|under|Table"),
        ("Beneath a cat lies a table.", "Table|under|Cat"),
        ("Under the table, the cat.", "Cat|under|Table"),
        ("Upon the table there is a cat.", "Cat|on|Table"),
    ],
    "Table|is|Wooden": [
        ("wooden table", "Table|is|Wooden"),
        ("plastic table", "Table|is|Plastic"),
        ("The table is wooden.", "Table|is|Wooden"),
        ("The table is plastic.", "Table|is|Plastic"),
        ("A table made of wood.", "Table|is|Wooden"),
        ("A table made of plastic.", "Table|is|Plastic"),
        ("Here is a wooden table.", "Table|is|Wooden"),
        ("Here is a table that is not wooden.", ""),
    ],
    "Dog|left_of|Cat": [
        ("dog left of cat", "Dog|left_of|Cat"),
        ("cat left of dog", "Cat|left_of|Dog"),
        ("A dog stands beside the cat, on its left.", "Dog|left_of|Cat"),
        ("A dog stands beside the cat, on its right.", "Cat|left_of|Dog"),
        ("The dog is to the left of the cat.", "Dog|left_of|Cat"),
        ("The cat is to the left of the dog.", "Cat|left_of|Dog"),
        ("Left of the cat is the dog.", "Dog|left_of|Cat"),
        ("Left of the dog is the cat.", "Cat|left_of|Dog"),
    ],
}
SHOWN = [["Cat|on|Table"], ["Cat|under|Table"], ["Cat|on|Table", "Table|is|Wooden"], ["Dog|left_of|Cat"]]


def items(images: int = 12, triplets=tuple(TRIPLETS)) -> Items:
    """Images that show one or two triplets in turn."""

    def example(n):
        shown = [t for t in SHOWN[n % len(SHOWN)] if t in triplets] or [triplets[0]]
        rows = [(text, t, said, s // 2, 1 - s % 2) for t in shown for s, (text, said) in enumerate(TRIPLETS[t])]
        columns = zip(*rows, strict=True)
        return {
            "image_id": f"image{n}",
            "captions": dict(zip(("text", "triplet", "asserts", "pair", "polarity"), columns, strict=True)),
        }

    return collect("tiny", map(example, range(images)))


TEXTS = sorted({text for captions in TRIPLETS.values() for text, _ in captions})


def processor(family: str) -> Processor:
    pixels = {"resize": "square", "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    context = preset(f"tiny-{family}").text.context
    return Processor(tokenizer=train_tokenizer(family, TEXTS, 400, context), context=context, size=48, **pixels)


@pytest.fixture(scope="module")
def clip():
    return processor("clip")


def planner(clip, name="all_pairs", **changes) -> Planner:
    options = {"batch_size": 4, "shards": 1, "seed": 7, "trim_eos": 1}
    parts = changes.pop("parts", [Part(items(), recipe(name))])
    return Planner(parts, clip, **options | changes)


def words(plan, clip) -> list[str]:
    """The captions of a plan by row, from its tokens."""
    text = {tuple(row[: plan.tokens.shape[1]]): text for row, text in zip(clip.tokenize(TEXTS), TEXTS, strict=True)}
    return [text[tuple(row)] for row in plan.tokens]


def rows_of(plan) -> collections.Counter:
    """The image rows of a plan with all that the losses read of them, ids as tokens: comparable whatever the layout."""
    images, captions = plan.image_labels, plan.caption_labels
    tokens = {int(id_): tuple(row) for id_, row in zip(captions.id_U, plan.tokens.tolist(), strict=True) if id_ >= 0}

    def said(ids):
        return tuple(tokens[int(id_)] for id_ in ids if id_ >= 0)

    return collections.Counter(
        {
            (row, said(positive), said(negative), tuple(shows)): float(mult)
            for row, mult, positive, negative, shows in zip(plan.rows, *images, strict=True)
            if row != BLANK
        }
    )


def captions_of(plan) -> collections.Counter:
    captions = plan.caption_labels
    rows = zip(plan.tokens.tolist(), captions.mult_U, captions.asserts_UA.tolist(), strict=True)
    return collections.Counter({(tuple(t), tuple(a)): float(mult) for t, mult, a in rows if mult > 0})


# ---- Recipes ---------------------------------------------------------------------------------------------------------


def draws(name: str, n: int = 0, times: int = 400):
    """What the recipe draws for image ``n``, many times: slots of the eight captions of its first triplet."""
    rng, table = np.random.default_rng(0), items()
    slot = {text: s for s, (text, _) in enumerate(TRIPLETS["Cat|on|Table"])}
    for _ in range(times):
        yield tuple(
            [slot.get(drawn.text, drawn.text) for drawn in side] for side in recipe(name).captions(table, n, rng)
        )


def is_uniform(seen, expected) -> bool:
    """Exactly these outcomes, and none more likely than another (chi-squared, p > 0.001)."""
    counts = collections.Counter(map(repr, seen))
    return set(counts) == set(map(repr, expected)) and chisquare(list(counts.values())).pvalue > 0.001


def test_single_pair_draws_one_complex_positive_and_one_complex_negative():
    assert is_uniform(draws("single_pair", times=900), [([p], [n]) for p in (2, 4, 6) for n in (3, 5, 7)])


def test_one_pair_draws_a_whole_pair():
    assert is_uniform(draws("one_pair"), [([p], [p + 1]) for p in (0, 2, 4, 6)])


def test_all_pairs_draws_the_eight_captions():
    assert all(drawn == ([0, 2, 4, 6], [1, 3, 5, 7]) for drawn in draws("all_pairs", times=5))
    assert recipe("all_pairs").copies == 4


def test_two_pairs_draws_two_whole_pairs():
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    assert is_uniform(draws("two_pairs", times=1200), [([2 * a, 2 * b], [2 * a + 1, 2 * b + 1]) for a, b in pairs])


def test_positives_draws_any_positive():
    assert is_uniform(draws("positives"), [([p], []) for p in (0, 2, 4, 6)])


def test_order_shuffles_draws_a_positive_and_the_same_words_in_another_order():
    seen = set()
    rng, table = np.random.default_rng(0), items()
    for _ in range(400):
        text, negative = (side[0].text for side in recipe("order_shuffles").captions(table, 0, rng))
        assert text in {t for t, _ in TRIPLETS["Cat|on|Table"][::2]}
        assert negative != text and sorted(negative.split()) == sorted(text.split())
        seen.add(negative)
    assert len(seen) > 50


def test_bag_of_words_shuffles_its_positive_and_never_names_an_attribute():
    named = {tuple(sorted(TRIPLETS["Cat|on|Table"][s][0].split())) for s in (0, 2, 4, 6)}
    texts = [positive for [positive], _ in draws("bag_of_words", n=2)]
    texts = [TRIPLETS["Cat|on|Table"][t][0] if isinstance(t, int) else t for t in texts]
    assert {tuple(sorted(text.split())) for text in texts} == named


def test_a_rewritten_caption_asserts_nothing():
    rng = np.random.default_rng(0)
    [positive], [negative] = recipe("order_shuffles").captions(items(), 0, rng)
    assert positive.asserts and not negative.asserts


def test_every_triplet_of_an_image_is_drawn():
    rng, table = np.random.default_rng(0), items()
    drawn = [recipe("single_pair").captions(table, 2, rng)[0][0].text for _ in range(600)]
    wooden = {text for text, _ in TRIPLETS["Table|is|Wooden"]}
    assert chisquare([sum(t in wooden for t in drawn), sum(t not in wooden for t in drawn)]).pvalue > 0.001


def test_an_empty_slot_that_the_recipe_needs_is_named():
    table = items()
    table.captions_G8[0, 6] = -1
    with pytest.raises(ValueError, match=r"tiny, image 'image0': caption slots \[6\] are empty"):
        recipe("all_pairs").captions(table, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="single_pair"):
        recipe("three_pairs")


# ---- Plans -----------------------------------------------------------------------------------------------------------


def test_labels_by_hand(clip):
    """A batch of all four kinds of image: what each shows, what was drawn for it, what every caption asserts and how
    often it was drawn."""
    plan = planner(clip, parts=[Part(items(4), recipe("all_pairs"))]).plan(0)
    images, captions = plan.image_labels, plan.caption_labels
    text, number = words(plan, clip), {name: n for n, name in enumerate(planner_triplets())}
    assert [row.item for row in plan.rows[:-1]] != [0, 1, 2, 3] and sorted(row.item for row in plan.rows[:-1]) == [
        0,
        1,
        2,
        3,
    ]
    assert plan.rows[-1] == BLANK
    np.testing.assert_array_equal(images.mult_I, [4, 4, 4, 4, 16])
    drawn = collections.Counter()
    for row, positives, negatives, shows in zip(plan.rows[:-1], *images[1:], strict=False):
        assert {number[t] for t in SHOWN[row.item]} == set(shows.tolist()) - {-1}
        triplet = next(t for t in SHOWN[row.item] if TRIPLETS[t][0][0] == text[positives[0]])
        assert [text[i] for i in positives] == [t for t, _ in TRIPLETS[triplet][::2]]
        assert [text[i] for i in negatives] == [t for t, _ in TRIPLETS[triplet][1::2]]
        drawn.update(t for t, _ in TRIPLETS[triplet])
    assert all((row == -1).all() for row in (images.positives_IK[-1], images.negatives_IK[-1], images.shows_IT[-1]))
    used = int((captions.mult_U > 0).sum())
    assert {text[u]: int(captions.mult_U[u]) for u in range(used)} == drawn
    np.testing.assert_array_equal(captions.id_U, [*range(used), *[-2] * (len(captions.id_U) - used)])
    asserts = {t: said for rows in TRIPLETS.values() for t, said in rows}
    for u in range(used):
        assert set(captions.asserts_UA[u].tolist()) - {-2} == (
            {number[asserts[text[u]]]} if asserts[text[u]] else set()
        )


def planner_triplets() -> list[str]:
    """Triplets are numbered in the order of their names over all sources."""
    return sorted({name for rows in TRIPLETS.values() for _, name in rows if name})


def test_a_caption_of_two_sources_is_one_row_and_triplets_have_one_number(clip):
    first, second = items(4, ("Cat|on|Table",)), items(4, ("Cat|under|Table",))
    parts = [Part(first, recipe("all_pairs")), Part(second, recipe("all_pairs"))]
    plan = planner(clip, parts=parts).plan(0)
    text = words(plan, clip)
    row = text.index("The cat is under the table.")
    assert (
        text.count(text[row]) == 1 and plan.caption_labels.mult_U[row] == 4
    )  # negative of two images, positive of two
    shown = {s: plan.image_labels.shows_IT[n, 0] for n, s in enumerate(r.source for r in plan.rows[:-1])}
    assert shown[0] != shown[1] and set(plan.caption_labels.asserts_UA[row].tolist()) - {-2} == {shown[1]}


@pytest.mark.parametrize("name", RECIPES)
def test_shards_and_chunks_do_not_change_a_batch(clip, name):
    whole = planner(clip, name, batch_size=8)
    for shards, chunks in ((2, 1), (8, 1), (2, 2)):
        cut = planner(clip, name, batch_size=8, shards=shards, chunks=chunks)
        for step in (0, 5):
            one, other = whole.plan(step), cut.plan(step)
            assert rows_of(one) == rows_of(other)
            assert captions_of(one) == captions_of(other)
            assert one.image_labels.mult_I.sum() == other.image_labels.mult_I.sum()
            assert not len(other.rows) % (shards * chunks) and not len(other.tokens) % (shards * chunks)


def test_a_batch_is_a_function_of_seed_and_step(clip):
    first, again, other = planner(clip), planner(clip), planner(clip, seed=8)
    first.plan(3)  # what was planned before does not matter
    for step in (4, 0):
        jax.tree.map(np.testing.assert_array_equal, first.plan(step)[1:], again.plan(step)[1:])
        assert first.plan(step).rows == again.plan(step).rows
    assert [first.items(s) for s in range(3)] != [other.items(s) for s in range(3)]


def test_every_epoch_has_every_item_once_in_another_order(clip):
    plans = planner(clip)
    epochs = [[n for step in range(3 * e, 3 * e + 3) for _, n in plans.items(step)] for e in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_captions_are_drawn_anew_in_every_epoch(clip):
    plans = planner(clip, "single_pair", parts=[Part(items(4), recipe("single_pair"))])
    assert len({tuple(sorted(words(plans.plan(step), clip))) for step in range(6)}) > 1


def test_a_mixture_keeps_its_weights(clip):
    parts = [Part(items(12), recipe("all_pairs"), 0.75), Part(items(5), recipe("order_shuffles"), 0.25)]
    plans = planner(clip, parts=parts, batch_size=8)
    drawn = [pair for step in range(40) for pair in plans.items(step)]
    assert collections.Counter(source for source, _ in drawn) == {0: 240, 1: 80}
    for source, size, times in ((0, 12, 20), (1, 5, 16)):
        assert collections.Counter(n for s, n in drawn if s == source) == dict.fromkeys(range(size), times)
    plan = plans.plan(0)
    copies = [mult for row, mult in zip(plan.rows, plan.image_labels.mult_I, strict=True) if row != BLANK]
    assert sorted(copies) == [1, 1, *[4] * 6] and plan.image_labels.mult_I[-1] == sum(copies)


def test_the_number_of_caption_rows_takes_few_values(clip):
    plans = planner(clip, "single_pair", batch_size=64, shards=4, parts=[Part(items(100), recipe("single_pair"))])
    sizes = {len(plans.plan(step).tokens) for step in range(30)}
    assert len(sizes) <= 8 and all(size % 4 == 0 and size <= 128 for size in sizes)


def test_sources_and_seeds_have_orders_of_their_own(clip):
    """Also where one's source number and the other's seed are far apart."""
    parts = [Part(items(), recipe("single_pair"))] * 3
    orders = {}
    for seed in (0, 1, 256, 512):
        plans = planner(clip, parts=parts, batch_size=36, seed=seed)
        for source in range(3):
            orders[seed, source] = tuple(n for s, n in plans.items(0) if s == source)
    assert len(set(orders.values())) == 12


def test_a_batch_that_does_not_divide_is_refused(clip):
    with pytest.raises(ValueError, match=r"config\.data\.batch_size is 6: not a multiple of the 4 devices"):
        planner(clip, batch_size=6, shards=4)


def test_hard_images_join_as_in_the_published_negclip(clip):
    """Beside every anchor stands one of its mined images with a caption and a negative of its own: 2B images, 4B
    captions."""
    hard = [[(n + 1) % 12, (n + 5) % 12] for n in range(12)]
    plans = planner(clip, parts=[Part(items(), recipe("single_pair"), hard_images=hard)], batch_size=6)
    chosen = set()
    for step in range(8):
        plan = plans.plan(step)
        anchors, mined = plan.rows[::2], plan.rows[1::2]
        assert len(plan.rows) == 12 and plan.caption_labels.mult_U.sum() == 24
        assert [row.item for row in anchors] == [n for _, n in plans.items(step)]
        assert all(other.item in hard[row.item] for row, other in zip(anchors, mined, strict=True))
        assert len({row.draw for row in plan.rows}) == 12, "no two pictures are cropped with the same random numbers"
        chosen.update((other.item - row.item) % 12 for row, other in zip(anchors, mined, strict=True))
        assert (plan.image_labels.positives_IK >= 0).all() and (plan.image_labels.negatives_IK >= 0).all()
        text = words(plan, clip)
        for row, positive in zip(plan.rows, plan.image_labels.positives_IK, strict=True):
            assert text[positive[0]] in {t for shown in SHOWN[row.item % 4] for t, _ in TRIPLETS[shown][2::2]}
    assert chosen == {1, 5}


def test_an_image_without_mined_images_stands_alone(clip):
    plans = planner(clip, parts=[Part(items(), recipe("single_pair"), hard_images=[[]] * 12)])
    np.testing.assert_array_equal(plans.plan(0).image_labels.mult_I, [1, 1, 1, 1, 0, 0, 0, 0])


# ---- Trimmed text ----------------------------------------------------------------------------------------------------


def test_trimming_changes_nothing_for_a_causal_tower(clip):
    """CLIP's captions are cut; the embeddings are those of the whole context."""
    model = Model(preset("tiny-clip"))
    params = model.init(jax.random.key(0))
    short, whole = (planner(clip, trim_eos=eos).plan(0).tokens for eos in (1, None))
    assert short.shape[1] < whole.shape[1] == 32 and short.shape[1] % 8 == 0
    assert ((short == 1).any(axis=1)).all()
    encode = jax.jit(model.encode_text)
    np.testing.assert_allclose(encode(params, jnp.asarray(short)), encode(params, jnp.asarray(whole)), atol=1e-6)


def test_siglip_is_never_trimmed_and_refuses_it():
    """Its tower attends to padding: the same captions cut give other embeddings, so the tower refuses them."""
    siglip = processor("siglip")
    model = Model(preset("tiny-siglip"))
    assert not model.config.text.causal  # what run.py asks before it passes trim_eos
    tokens = planner(siglip, trim_eos=None).plan(0).tokens
    context = model.config.text.context
    assert tokens.shape[1] == context
    with pytest.raises(ValueError, match="exactly, for it attends to padding"):
        jax.eval_shape(model.encode_text, model.shapes(), jax.ShapeDtypeStruct((4, context // 2), jnp.int32))
    params = model.init(jax.random.key(0))
    ends = (tokens != 1).sum(axis=1, keepdims=True)  # the end token's position; padding is the same token
    changed = np.where(np.arange(context) > ends, 2, tokens)  # other padding, other embeddings
    encode = jax.jit(model.encode_text)
    assert np.abs(encode(params, jnp.asarray(tokens)) - encode(params, jnp.asarray(changed))).max() > 1e-3


# ---- Pictures --------------------------------------------------------------------------------------------------------


def jpeg(seed: int = 0, width: int = 90, height: int = 70) -> bytes:
    """Smooth colours, so that JPEG changes little."""
    rng, out = np.random.default_rng(seed), io.BytesIO()
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("name", ["single_pair", "all_pairs"])
def test_mirrors_only_where_the_captions_stay_true(clip, name):
    plan = planner(clip, name, batch_size=12).plan(0)
    mirrors = {row.item % 4: row.mirror for row in plan.rows if row != BLANK}
    assert mirrors == {0: True, 1: True, 2: True, 3: False}  # only the last is told by left and right


def test_a_caption_with_a_side_stops_the_mirror_though_its_triplet_has_none(clip):
    table = items(4, ("Cat|on|Table",))
    table.texts[:] = [text.replace("under", "on the right of") for text in table.texts]
    plan = planner(clip, parts=[Part(table, recipe("all_pairs"))]).plan(0)
    assert not any(row.mirror for row in plan.rows)


def augmented(augment: Augment, data: bytes, mirror: bool = False, seed: int = 0) -> np.ndarray:
    out = np.empty((augment.size, augment.size, 3), np.uint8)
    augment(data, mirror, np.random.default_rng(seed), out)
    return out


def test_augmentation_is_a_function_of_its_generator_and_mirrors_half_of_the_time():
    augment, data = Augment(32, (0.5, 1.0)), jpeg()
    crops = [augmented(augment, data, seed=n) for n in range(40)]
    assert len({crop.tobytes() for crop in crops}) > 35  # two boxes may be equal
    mirrored = 0
    for n, crop in enumerate(crops):
        np.testing.assert_array_equal(crop, augmented(augment, data, seed=n))
        other = augmented(augment, data, mirror=True, seed=n)
        assert np.array_equal(other, crop) or np.array_equal(other, crop[:, ::-1])
        mirrored += np.array_equal(other, crop[:, ::-1])
    assert 10 <= mirrored <= 30


@pytest.mark.parametrize("side", [96, 100, 192, 400])
def test_a_whole_crop_is_the_picture_resized(side):
    """Scale 1 and the picture's own proportions leave one crop: the whole, at whichever scale the JPEG is decoded."""
    data = jpeg(width=side, height=side)
    crop = augmented(Augment(48, (1.0, 1.0), (1.0, 1.0)), data)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((48, 48), Image.Resampling.BOX), float)
    assert np.abs(crop - expected).mean() < 2


def test_crops_cover_the_share_of_the_area_that_they_should():
    """Torchvision's RandomResizedCrop: the box's area is uniform over the scale, its proportions within the ratio."""
    augment, rng = Augment(32, (0.4, 0.8)), np.random.default_rng(0)
    boxes = np.array([augment._box(400, 400, rng) for _ in range(2000)])
    left, top, width, height = boxes.T
    shares, ratios = width * height / 400**2, width / height
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 400).all() and (top + height <= 400).all()
    assert shares.min() > 0.39 and shares.max() < 0.81 and ratios.min() > 0.74 and ratios.max() < 1.35
    assert chisquare(np.histogram(shares, 4, (0.4, 0.8))[0]).pvalue > 1e-4


def source(pictures: int = 12, broken: int | None = None) -> Source:
    records = [{"image": jpeg(n)} for n in range(pictures)]
    if broken is not None:
        records[broken]["image"] = records[broken]["image"][:80]
    return Source(items(pictures), records)


def mesh(devices: int) -> jax.sharding.Mesh:
    grid = np.array(jax.devices()[:devices]).reshape(devices, 1, 1)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def pipeline(clip, data: Source, devices: int = 1, **reading) -> Pipeline:
    plans = Planner([Part(data.items, recipe("single_pair"))], clip, batch_size=4, shards=devices, seed=7, trim_eos=1)
    return Pipeline(plans, [data], Augment(24, (0.8, 1.0)), batch_sharding(mesh(devices)), **reading)


def test_threads_and_a_later_start_do_not_change_a_batch(clip):
    data = source()
    first = list(pipeline(clip, data, threads=1).batches(0, 5))
    again = list(pipeline(clip, data, threads=4).batches(2, 5))
    assert len(first) == 5 and len(again) == 3
    for one, other in zip(first[2:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_reading_processes_do_not_change_a_batch(clip):
    absl.flags.FLAGS.mark_as_parsed()
    data = source()
    for one, other in zip(
        pipeline(clip, data).batches(0, 4), pipeline(clip, data, workers=2).batches(0, 4), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_pictures_are_the_same_on_any_number_of_devices(clip):
    """And the sentinel is white."""

    def pictures(devices):
        pipe = pipeline(clip, source(), devices)
        (batch,) = pipe.batches(3, 4)
        rows = pipe.planner.plan(3).rows
        assert batch.images.sharding == batch_sharding(mesh(devices))
        return dict(zip(rows, np.asarray(batch.images), strict=True))

    one, four = pictures(1), pictures(4)
    assert one.keys() == four.keys() and len(one) == 5
    jax.tree.map(np.testing.assert_array_equal, list(one.values()), [four[row] for row in one])
    assert (one[BLANK] == 255).all()


def test_a_broken_picture_is_named(clip):
    data = source(broken=5)
    with pytest.raises(ValueError, match=r"tiny, image 'image5': not a readable JPEG \(80 bytes\)"):
        list(pipeline(clip, data).batches(0, 3))


def test_a_picture_bomb_is_refused_before_it_is_decoded():
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60" * 2  # height and width of 60,000
    with pytest.raises(ValueError, match="60000 x 60000"):
        augmented(Augment(24, (0.9, 1.0)), bytes(data))
