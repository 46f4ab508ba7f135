"""Sigmoid and softmax (CLIP, NegCLIP) losses on a batch that is a weighted bipartite graph.

A batch holds distinct images and distinct captions, each with a multiplicity, and labels from which the positive and
negative count of every cell (image, caption) follows. With multiplicities the losses equal those of the *expanded
batch*, in which every copy is a row of its own, exactly: value and gradient.

Everything is written for one *tile*: a block of images against a block of captions; ``naturel_jax.tiles`` visits them
all, around a ring of devices.

Shape letters: I images, U distinct captions, D embedding, K captions drawn for an image, T triplets an image shows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from naturel_jax import config
from naturel_jax.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.counting import cell_counts
from naturel_jax.tiles import DENSE, Layout, Side, gradients, sweep, total_over_tiles

_FLOOR = -1e30  # log of an empty sum: finite, so that differences with it are never inf - inf


def _cosines(zimg_ID: jax.Array, zcap_UD: jax.Array) -> jax.Array:
    """[I, U], at full precision also where matrix products default to less (TPU, TF32)."""
    return jnp.einsum("id,ud->iu", zimg_ID, zcap_UD, precision="highest")


def _at_least_float32(z_ND: jax.Array) -> jax.Array:
    """Gradients take the dtype of what they are taken to: summed over tiles in bfloat16 they would lose most of what a
    tile adds."""
    return z_ND.astype(jnp.promote_types(z_ND.dtype, jnp.float32))


# ---- Sigmoid --------------------------------------------------------------------------------------------------------


def sigmoid_loss(
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    images: ImageLabels,
    captions: CaptionLabels,
    *,
    counting: str = "published",
    hard_negative_weight: float = 1.0,
    layout: Layout = DENSE,
) -> jax.Array:
    """The sigmoid loss of arXiv 2303.15343, eq. 1, over the expanded batch: mean over images of the sum over captions.

    Args: unit embeddings (rows), scale t and bias b of the logits ``t * cosine + b`` (scalars), labels. Returns a
    float32 scalar.
    """

    def tile(images: Side, captions: Side, shared):
        logits_IU = shared[0] * _cosines(images.values, captions.values) + shared[1]
        counts = cell_counts(images.labels, captions.labels, counting, hard_negative_weight)
        total_IU = images.labels.mult_I[:, None] * captions.labels.mult_U
        negative_IU = (total_IU - counts.positive_IU) * counts.others_IU
        return jnp.sum(counts.positive_IU * jax.nn.softplus(-logits_IU) + negative_IU * jax.nn.softplus(logits_IU))

    image_side, caption_side = Side(_at_least_float32(zimg_ID), images), Side(_at_least_float32(zcap_UD), captions)
    total = total_over_tiles(tile, layout, image_side, caption_side, (scale, bias))
    return total / jnp.sum(images.mult_I)


# ---- Softmax --------------------------------------------------------------------------------------------------------


class _Stats(NamedTuple):
    """Of each row (or column) of the matrix: log of its weighted sum of exponentials, number of positives, total
    weight."""

    lse: jax.Array
    positives: jax.Array
    weight: jax.Array


def _weighted_exponents(logits, weights):
    """``logits + log(weights)``, and the floor where the weight is 0."""
    return jnp.where(weights > 0, logits + jnp.log(jnp.where(weights > 0, weights, 1.0)), _FLOOR)


def _softmax_tile(images: Side, captions: Side, scale, counting, hard_negative_weight):
    """Logits, positive counts, and the weights of the cells in the sums of their row and of their column."""
    counts = cell_counts(images.labels, captions.labels, counting, hard_negative_weight)
    row_IU = captions.labels.mult_U * counts.others_IU
    column_IU = images.labels.mult_I[:, None] * counts.others_IU
    return scale * _cosines(images.values[0], captions.values[0]), counts.positive_IU, row_IU, column_IU


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_sums(parts: Callable, layout: Layout, images: Side, captions: Side, scale: jax.Array) -> tuple[_Stats, _Stats]:
    """Statistics of all rows and all columns, differentiable in the log-sums. ``parts`` is ``_softmax_tile`` with its
    options."""

    def update(stats: _Stats, logits, positive, weights, axis):
        tile = _Stats(
            jax.nn.logsumexp(_weighted_exponents(logits, weights), axis=axis), positive.sum(axis), weights.sum(axis)
        )
        return _Stats(jnp.logaddexp(stats.lse, tile.lse), stats.positives + tile.positives, stats.weight + tile.weight)

    def visit(images, captions, rows, columns, scale):
        logits, positive, row_weights, column_weights = parts(images, captions, scale)
        return update(rows, logits, positive, row_weights, 1), update(columns, logits, positive, column_weights, 0)

    def empty(mult):
        zeros = jnp.zeros(mult.shape, images.values[0].dtype)
        return _Stats(zeros + _FLOOR, zeros, zeros)

    return sweep(visit, layout, images, captions, empty(images.labels.mult_I), empty(captions.labels.mult_U), scale)


def _log_sums_forward(parts, layout, images, captions, scale):
    stats = _log_sums(parts, layout, images, captions, scale)
    return stats, (images, captions, scale, stats)


def _log_sums_backward(parts, layout, saved, upstream):
    images, captions, scale, (rows, columns) = saved

    def tile(images: Side, captions: Side, scale):
        # d lse = sum of softmax weights times d logit: with the log-sums held fixed this tile's gradient is just that.
        row_labels, column_labels = images.labels, captions.labels
        logits, _, row_weights, column_weights = parts(
            Side(images.values, row_labels[0]), Side(captions.values, column_labels[0]), scale
        )
        row = jnp.exp(_weighted_exponents(logits, row_weights) - row_labels[1][:, None]) * row_labels[2][:, None]
        column = jnp.exp(_weighted_exponents(logits, column_weights) - column_labels[1]) * column_labels[2]
        return jnp.sum(row) + jnp.sum(column)

    one = jnp.ones((), scale.dtype)
    row_side = Side(images.values, (images.labels, rows.lse, upstream[0].lse))
    column_side = Side(captions.values, (captions.labels, columns.lse, upstream[1].lse))
    dimages, dcaptions, dscale = gradients(tile, layout, row_side, column_side, scale, one)
    return Side(dimages, None), Side(dcaptions, None), dscale


_log_sums.defvjp(_log_sums_forward, _log_sums_backward)


def softmax_loss(
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    scale: jax.Array,
    images: ImageLabels,
    captions: CaptionLabels,
    *,
    counting: str = "published",
    hard_negative_weight: float = 1.0,
    label_smoothing: float = 0.0,
    layout: Layout = DENSE,
) -> jax.Array:
    """Mean of the image-to-text and the text-to-image cross-entropy over the expanded batch: CLIP, and NegCLIP with
    its extra columns.

    An image without a drawn caption (the sentinel) is a column of text-to-image and has no row of its own; a caption
    drawn only as a negative is a column of image-to-text and has no row of its own. With B images, B hard images and
    4B texts this is the loss of the published NegCLIP (``neg_clip`` fork of OpenCLIP). Several positives of a row
    share its target equally (UniCL, arXiv 2204.03610, eq. 3). Left-out copies (``match_ignore``) are out of both the
    target and the sum, and each positive stands against the negatives alone.

    Args: unit embeddings (rows), scale t of the logits ``t * cosine``, labels. Returns a float32 scalar. Raises
    ValueError for label smoothing with ``match_ignore``: the positives of a row have no sum in common whose classes it
    could spread over.
    """
    if label_smoothing and counting == "match_ignore":
        raise ValueError(
            f"label_smoothing is {label_smoothing} and counting is 'match_ignore': "
            "set label_smoothing to 0, or count otherwise"
        )
    zimg_ID, zcap_UD = _at_least_float32(zimg_ID), _at_least_float32(zcap_UD)
    parts = functools.partial(_softmax_tile, counting=counting, hard_negative_weight=hard_negative_weight)
    image_side, caption_side = Side((zimg_ID,), images), Side((zcap_UD,), captions)
    rows, columns = _log_sums(parts, layout, image_side, caption_side, scale)

    row_weight_I = images.mult_I * (rows.positives > 0)
    # As published, only copies drawn as a positive are rows of text-to-image; match-aware, every copy that is true of
    # some image is.
    copies_U = captions.mult_U * (columns.positives > 0) if counting == "match_positive" else columns.positives
    separate = counting == "match_ignore"  # the sums hold negatives only

    def tile(images: Side, captions: Side, scale):
        labels = Side(images.values, images.labels[0]), Side(captions.values, captions.labels[0])
        logits, positive, row_weights, column_weights = parts(*labels, scale)
        row = _cross_entropy(logits, positive, row_weights, images.values[1], images.labels[1], 1)
        column = _cross_entropy(logits, positive, column_weights, captions.values[1], captions.labels[1], 0)
        return jnp.sum(row) + jnp.sum(column)

    def _cross_entropy(logits, positive, weights, lse, stats, axis):
        expand = functools.partial(jnp.expand_dims, axis=axis)
        share, positives, total_weight = (expand(x) for x in stats)
        target = (1 - label_smoothing) * positive / jnp.maximum(positives, 1e-9)
        target += label_smoothing * weights / jnp.maximum(total_weight, 1e-9)
        cost = (jnp.logaddexp(expand(lse), logits) if separate else expand(lse)) - logits
        return share * target * cost

    row_stats = (row_weight_I / jnp.sum(row_weight_I), rows.positives, rows.weight)
    column_stats = (copies_U / jnp.sum(copies_U), columns.positives, columns.weight)
    row_side = Side((zimg_ID, rows.lse), (images, row_stats))
    column_side = Side((zcap_UD, columns.lse), (captions, column_stats))
    return total_over_tiles(tile, layout, row_side, column_side, scale) / 2


# ---- The table ------------------------------------------------------------------------------------------------------


class Objective(NamedTuple):
    """A row of ``OBJECTIVES``: ``loss(zimg_ID, zcap_UD, scale, bias, batch, options, layout)`` returns a scalar.

    ``needs_bias``: a checkpoint without a bias gets one, calibrated on the first batch.
    """

    loss: Callable[[jax.Array, jax.Array, jax.Array, jax.Array, Batch, config.Objective, Layout], jax.Array]
    needs_bias: bool


def _counting(options: config.Objective) -> dict[str, Any]:
    return {"counting": options.counting, "hard_negative_weight": options.hard_negative_weight}


def _softmax(
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    batch: Batch,
    options: config.Objective,
    layout: Layout,
) -> jax.Array:
    del bias  # a constant added to all logits changes no softmax
    labels, smoothing = (batch.image_labels, batch.caption_labels), options.label_smoothing
    return softmax_loss(
        zimg_ID, zcap_UD, scale, *labels, label_smoothing=smoothing, layout=layout, **_counting(options)
    )


def _sigmoid(
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    batch: Batch,
    options: config.Objective,
    layout: Layout,
) -> jax.Array:
    labels = batch.image_labels, batch.caption_labels
    return sigmoid_loss(zimg_ID, zcap_UD, scale, bias, *labels, layout=layout, **_counting(options))


# config.objective.name -> objective. A new loss is one file and one line here, or one line in a config file.
OBJECTIVES: dict[str, Objective] = {
    "softmax": Objective(_softmax, needs_bias=False),
    "sigmoid": Objective(_sigmoid, needs_bias=True),
}
