"""The losses against the expanded batch, OpenCLIP's losses, the published NegCLIP loss, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from naturel_jax.losses.batch import COUNTING, CaptionLabels, ImageLabels, cell_counts
from naturel_jax.losses.objectives import sigmoid_loss
from naturel_jax.losses.tiles import Layout, sweep
from naturel_jax.training.calibration import calibrate_bias
from tests.helpers.expanded_batch import Graph, random_graph, reference, units
from tests.helpers.losses import BIAS, RECIPES, SCALE, TOLERANCE, assert_equal, compiled, run, take
from tests.helpers.properties import given, settings, st


@pytest.fixture(params=sorted(TOLERANCE))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("counting", COUNTING)
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_weighted_batch_matches_the_expanded_batch(objective, counting, recipe, dtype):
    graph = random_graph(0, **RECIPES[recipe])
    ours = run(compiled(objective, counting), graph.astype(dtype))
    assert ours[0].dtype == dtype
    assert_equal(ours, reference(graph, objective, SCALE, BIAS, counting=counting), TOLERANCE[dtype])


@pytest.mark.parametrize("counting", COUNTING)
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_hard_negative_weight_matches_the_expanded_batch(objective, counting):
    graph = random_graph(1, **RECIPES["two_pairs"])
    with jax.enable_x64(True):
        ours = run(compiled(objective, counting, hard=3.0), graph)
    assert_equal(
        ours,
        reference(graph, objective, SCALE, BIAS, counting=counting, hard_negative_weight=3.0),
        TOLERANCE["float64"],
    )


@pytest.mark.parametrize("counting", ["published", "match_positive"])
def test_label_smoothing_matches_torch(counting):
    graph = random_graph(2, **RECIPES["all_pairs"])
    with jax.enable_x64(True):
        ours = run(compiled("softmax", counting, smoothing=0.1), graph)
    assert_equal(
        ours, reference(graph, "softmax", SCALE, BIAS, counting=counting, label_smoothing=0.1), TOLERANCE["float64"]
    )


def test_label_smoothing_is_rejected_for_match_ignore():
    graph = random_graph(2).astype("float32")
    with pytest.raises(ValueError, match="label_smoothing"):
        run(compiled("softmax", "match_ignore", smoothing=0.1), graph)


# ---- Published code --------------------------------------------------------------------------------------------------


def pairs(zimg_ID: np.ndarray, zcap_UD: np.ndarray) -> Graph:
    """A batch in which image n matches caption n."""
    n = np.arange(len(zimg_ID), dtype=np.int32)
    none = np.full((len(n), 1), -1, np.int32)
    images = ImageLabels(np.ones(len(n)), n[:, None], none, none)
    return Graph(zimg_ID, zcap_UD, images, CaptionLabels(np.ones(len(n)), n, none - 1))


def with_torch(loss, *arrays):
    """The value and gradients of ``loss``, in the precision of the arrays."""
    values = [torch.tensor(array, requires_grad=True) for array in arrays]
    result = loss(*values)
    return result.item(), [g.numpy() for g in torch.autograd.grad(result, values)]


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_matches_openclip(objective, dtype):
    rng = np.random.default_rng(3)
    graph = pairs(units(rng, 16), units(rng, 16)).astype(dtype)
    theirs = {"sigmoid": open_clip.loss.SigLipLoss(), "softmax": open_clip.loss.ClipLoss()}[objective]
    values = [graph.zimg_ID, graph.zcap_UD, np.array(SCALE, dtype), np.array(BIAS, dtype)]
    values = values if objective == "sigmoid" else values[:3]
    assert_equal(run(compiled(objective), graph), with_torch(theirs, *values), TOLERANCE[dtype])


def negclip(image_NID, text_MD, scale):
    """The ``neg_clip`` fork of OpenCLIP: image logits [2B, 4B], text logits of the first 2B texts [2B, 2B], labels
    arange(2B)."""
    logits = scale * image_NID @ text_MD.T
    labels = torch.arange(len(image_NID))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T[: len(image_NID)], labels)) / 2


def test_matches_the_published_negclip(dtype):
    """Images [I; I_hard] and texts [T; T_hard; neg(T); neg(T_hard)] over 11 distinct captions, some of which are both
    positives and negatives."""
    rng, b, distinct = np.random.default_rng(4), 6, 11
    zimg, zcap = units(rng, 2 * b).astype(dtype), units(rng, distinct).astype(dtype)
    text_M = rng.integers(0, distinct, 4 * b)
    text_M[2 * b :] = (text_M[: 2 * b] + rng.integers(1, distinct, 2 * b)) % distinct  # no negative is its own positive
    none = np.full((2 * b, 1), -1, np.int32)
    positives, negatives = text_M.astype(np.int32).reshape(2, 2 * b, 1)
    images = ImageLabels(np.ones(2 * b), positives, negatives, none)
    mult = np.bincount(text_M, minlength=distinct).astype(float)
    captions = CaptionLabels(mult, np.arange(distinct, dtype=np.int32), np.full((distinct, 1), -2, np.int32))
    theirs = with_torch(lambda i, c, t: negclip(i, c[text_M], t), zimg, zcap, np.array(SCALE, dtype))
    assert_equal(run(compiled("softmax"), Graph(zimg, zcap, images, captions).astype(dtype)), theirs, TOLERANCE[dtype])


def test_matches_negclip_with_b_copies_of_the_blank_image(dtype):
    """The poster's variant: the hard image of every item is the same blank image, which has no caption and therefore no
    row in the image-to-text loss."""
    rng, b, distinct = np.random.default_rng(5), 6, 7
    zimg, zcap = units(rng, b + 1).astype(dtype), units(rng, distinct).astype(dtype)
    positive_B, shift = rng.integers(0, distinct, b), rng.integers(1, distinct, b)
    negative_B = (positive_B + shift) % distinct

    def published(image, caption, scale):
        images = torch.cat([image[:b], image[b:].repeat(b, 1)])
        texts = torch.cat([caption[positive_B], caption[negative_B]])
        logits, labels = scale * images @ texts.T, torch.arange(b)
        return (F.cross_entropy(logits[:b], labels) + F.cross_entropy(logits.T[:b], labels)) / 2

    def column(ids):
        return np.append(ids, -1).astype(np.int32)[:, None]

    mult_I = np.append(np.ones(b), b)
    images = ImageLabels(mult_I, column(positive_B), column(negative_B), np.full((b + 1, 1), -1, np.int32))
    mult_U = np.bincount(np.concatenate([positive_B, negative_B]), minlength=distinct).astype(float)
    captions = CaptionLabels(mult_U, np.arange(distinct, dtype=np.int32), np.full((distinct, 1), -2, np.int32))
    theirs = with_torch(published, zimg, zcap, np.array(SCALE, dtype))
    assert_equal(run(compiled("softmax"), Graph(zimg, zcap, images, captions).astype(dtype)), theirs, TOLERANCE[dtype])


# ---- Matching --------------------------------------------------------------------------------------------------------

# Triplets 0: cat on table, 1: table on cat, 2: dog at table. Captions 0 and 1 are for triplet 0, 2 is the negative of
# both, 3 is a denial, 4 is for triplet 2, 5 is for both 0 and 2; 6 is padding.
HAND_CAPTIONS = CaptionLabels(
    np.array([1, 2, 1, 1, 1, 1, 0], np.float32),
    np.array([0, 1, 2, 3, 4, 5, -2], np.int32),
    np.array([[0, -2], [0, -2], [1, -2], [-2, -2], [2, -2], [0, 2], [-2, -2]], np.int32),
)
# Images 0 and 1 show triplet 0, with different captions sampled; image 2 shows triplets 0 and 2; 3 is the sentinel.
HAND_IMAGES = ImageLabels(
    np.array([1, 1, 1, 3], np.float32),
    np.array([[0, -1], [1, 1], [4, 5], [-1, -1]], np.int32),
    np.array([[2, -1], [3, -1], [2, 3], [-1, -1]], np.int32),
    np.array([[0, -1], [0, -1], [0, 2], [-1, -1]], np.int32),
)
SAMPLED = [[1, 0, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]]
ONES = [[1] * 7] * 4
HAND_COUNTS = {
    "published": (SAMPLED, ONES),
    "match_positive": (
        [[1, 2, 0, 0, 0, 1, 0], [1, 2, 0, 0, 0, 1, 0], [1, 2, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]],
        ONES,
    ),
    "match_ignore": (
        SAMPLED,
        [[0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1]],
    ),
}


@pytest.mark.parametrize("counting", COUNTING)
def test_cell_counts_by_hand(counting):
    positive, others = HAND_COUNTS[counting]
    counts = cell_counts(HAND_IMAGES, HAND_CAPTIONS, counting)
    np.testing.assert_array_equal(counts.positive_IU, positive)
    np.testing.assert_array_equal(counts.others_IU, others)


def test_hard_negatives_are_those_sampled_for_the_image_itself():
    counts = cell_counts(HAND_IMAGES, HAND_CAPTIONS, "published", hard_negative_weight=2.0)
    hard = [[1, 1, 2, 1, 1, 1, 1], [1, 1, 1, 2, 1, 1, 1], [1, 1, 2, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(counts.others_IU, hard)


# ---- Invariances -----------------------------------------------------------------------------------------------------


PROPERTY = settings(max_examples=25)
objectives = st.sampled_from(["sigmoid", "softmax"])
countings = st.sampled_from(sorted(COUNTING))


@PROPERTY
@given(st.integers(0, 10_000), objectives, countings, st.randoms(use_true_random=False))
def test_loss_does_not_depend_on_order(seed, objective, counting, random):
    graph = random_graph(seed)
    image_rows, caption_rows = ([*range(n)] for n in (len(graph.zimg_ID), len(graph.zcap_UD)))
    random.shuffle(image_rows)
    random.shuffle(caption_rows)
    with jax.enable_x64(True):
        step = compiled(objective, counting)
        value, (dimage, dcaption, *rest) = run(step, graph)
        moved = run(step, take(graph, image_rows, caption_rows))
    assert_equal(moved, (value, [dimage[np.array(image_rows)], dcaption[np.array(caption_rows)], *rest]), 1e-9)


@PROPERTY
@given(st.integers(0, 10_000), objectives, countings, st.integers(0, 12))
def test_duplicate_image_equals_multiplicity_two(seed, objective, counting, which):
    graph = random_graph(seed, sampled=1, sentinel=False)
    padding = int(np.flatnonzero(graph.images.mult_I == 0)[0])
    rows = np.arange(len(graph.zimg_ID))
    rows[padding] = which
    twice = take(graph, rows, slice(None))
    positives_IK = np.pad(graph.images.positives_IK, ((0, 0), (0, 1)), constant_values=-1)
    positives_IK[which, 1] = positives_IK[which, 0]  # sampled once for each copy
    mult_I = np.where(rows == which, 2.0, graph.images.mult_I) * (np.arange(len(rows)) != padding)
    once = graph._replace(images=graph.images._replace(mult_I=mult_I, positives_IK=positives_IK))
    with jax.enable_x64(True):
        value, (dimage, *rest) = run(compiled(objective, counting), once)
        two_value, (two_dimage, *two_rest) = run(compiled(objective, counting), twice)
    np.testing.assert_allclose(two_dimage[which], two_dimage[padding], rtol=1e-9)
    summed = np.array(two_dimage)
    summed[which] *= 2
    summed[padding] = 0
    assert_equal((two_value, [summed, *two_rest]), (value, [dimage, *rest]), 1e-9)


@PROPERTY
@given(st.integers(0, 10_000), objectives, countings)
def test_padding_does_not_change_the_loss(seed, objective, counting):
    graph = random_graph(seed)
    real = np.flatnonzero(graph.images.mult_I), np.flatnonzero(graph.captions.mult_U)
    with jax.enable_x64(True):
        value, gradients = run(compiled(objective, counting), graph)
        _, (expected_dimage, expected_dcaption, *rest) = bare = reference(
            take(graph, *real), objective, SCALE, BIAS, counting=counting
        )
    padded = [np.zeros_like(graph.zimg_ID), np.zeros_like(graph.zcap_UD)]
    padded[0][real[0]], padded[1][real[1]] = expected_dimage, expected_dcaption
    assert_equal((value, gradients), (bare[0], [*padded, *rest]), 1e-9)


# ---- Extremes and closed forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("counting", COUNTING)
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_extreme_logits_are_finite(objective, counting):
    """Every cosine is 1 or -1, the wrong sign for half of the positives, at CLIP's largest scale."""
    graph = random_graph(6).astype("float32")
    signs = np.random.default_rng(6).choice([-1.0, 1.0], (2, 24))
    axis = np.eye(8)[:1]
    for dtype in (jnp.float32, jnp.bfloat16) if counting == "published" else (jnp.float32,):
        zimg_ID, zcap_UD = jnp.asarray(signs[0, :16, None] * axis, dtype), jnp.asarray(signs[1, :, None] * axis, dtype)
        extreme = graph._replace(zimg_ID=zimg_ID, zcap_UD=zcap_UD)
        value, gradients = compiled(objective, counting)(
            zimg_ID, zcap_UD, np.float32(100), np.float32(-10), graph.images, graph.captions
        )
        expected = reference(
            extreme._replace(zimg_ID=np.asarray(zimg_ID, float), zcap_UD=np.asarray(zcap_UD, float)),
            objective,
            100.0,
            -10.0,
            counting=counting,
        )[0]
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert value.dtype == jnp.float32 and gradients[0].dtype == dtype
        assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)


def test_bfloat16_gradients_are_accumulated_in_float32():
    """Over many tiles, a bfloat16 sum would lose small contributions."""
    rng = np.random.default_rng(7)
    graph = pairs(units(rng, 512, 4), units(rng, 512, 4))
    zimg_ID, zcap_UD = jnp.asarray(graph.zimg_ID, jnp.bfloat16), jnp.asarray(graph.zcap_UD, jnp.bfloat16)
    graph = (
        graph._replace(zimg_ID=zimg_ID, zcap_UD=zcap_UD).astype("float32")._replace(zimg_ID=zimg_ID, zcap_UD=zcap_UD)
    )
    rounded = graph._replace(zimg_ID=np.asarray(zimg_ID, np.float32), zcap_UD=np.asarray(zcap_UD, np.float32))
    step = compiled("sigmoid", layout=Layout(tile=1))
    (dimage, *_), (expected, *_) = run(step, graph)[1], run(step, rounded)[1]
    np.testing.assert_array_equal(dimage, jnp.asarray(expected, jnp.bfloat16))


@pytest.mark.parametrize(
    ("captions", "limit", "sizes"),
    [
        (24, 7, [6] * 4),
        (23, 7, [4] * 5 + [3]),
        (2 * 4099, 4096, [2048] * 4 + [6]),
        (9, 8, [4, 4, 1]),
        (5, 8, [5]),
        (5, None, [5]),
        (3, 1, [1] * 3),
    ],
)
def test_a_tile_has_at_least_half_of_the_captions_that_it_may_have(captions, limit, sizes):
    def visit(images, captions, tiles, shared):
        return tiles + 1, jnp.full_like(captions, len(captions))

    zeros = jnp.zeros(captions)
    tiles, own = sweep(visit, jnp.add, Layout(tile=limit), zeros[:1], zeros, jnp.zeros(()), zeros, ())
    assert (tiles, own.tolist()) == (len(sizes), np.repeat(sizes, sizes).tolist())


@pytest.mark.parametrize(("weight", "smoothing"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.2)])
def test_closed_form_for_equal_logits(weight, smoothing):
    """Four images and eight captions with all cosines 0: a row sums to 7 + weight, the column of a positive to 4, and
    every target has the same cost, so smoothing has no effect."""
    n = np.arange(4, dtype=np.int32)
    images = ImageLabels(np.ones(4, np.float32), n[:, None], n[:, None] + 4, np.full((4, 1), -1, np.int32))
    captions = CaptionLabels(np.ones(8, np.float32), np.arange(8, dtype=np.int32), np.full((8, 1), -2, np.int32))
    graph = Graph(np.eye(12, 16, dtype=np.float32)[:4], np.eye(12, 16, dtype=np.float32)[4:], images, captions)
    value, _ = run(compiled("softmax", hard=weight, smoothing=smoothing), graph)
    np.testing.assert_allclose(value, (np.log(7 + weight) + np.log(4)) / 2, rtol=1e-6)
    value, _ = run(compiled("sigmoid", hard=weight), graph)
    np.testing.assert_allclose(value, np.log1p(np.exp(-BIAS)) + (6 + weight) * np.log1p(np.exp(BIAS)), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 14.0, 100.0])
def test_calibrated_bias_is_optimal(scale):
    graph = random_graph(8).astype("float32")
    loss = functools.partial(sigmoid_loss, graph.zimg_ID, graph.zcap_UD, jnp.float32(scale))
    actual = float(calibrate_bias(lambda bias: loss(bias, graph.images, graph.captions)))
    best = minimize_scalar(
        lambda bias: reference(graph, "sigmoid", scale, bias)[0],
        bounds=(-200, 200),
        method="bounded",
        options={"xatol": 1e-6},
    )
    assert actual == pytest.approx(best.x, abs=2e-3)
    if scale == 0:  # every logit is the bias: its sigmoid is the share of positives
        share = (graph.images.positives_IK >= 0).sum() / (graph.images.mult_I.sum() * graph.captions.mult_U.sum())
        assert actual == pytest.approx(np.log(share / (1 - share)), abs=1e-3)
