"""Sigmoid and softmax (CLIP, NegCLIP) losses on a batch that is a weighted bipartite graph.

A batch holds distinct images and distinct captions, each with a multiplicity, and labels that determine the positive
and negative count of every (image, caption) cell. Thanks to the multiplicities, the losses and their gradients exactly
equal those of the *expanded batch*, in which every copy has its own row.

Everything is written for one *tile*, the images of a device against some of the captions; ``tiles`` visits all of them,
around a ring of devices.

Shape letters: I images, U distinct captions, D embedding, N of either, B the batch size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from naturel_jax.losses.batch import CaptionLabels, ImageLabels, cell_counts
from naturel_jax.losses.parts import over_positives
from naturel_jax.losses.tiles import DENSE, Layout, Side, gradients, sweep, total_over_tiles

FLOOR = -1e30  # log of an empty sum: finite, so that differences with it are never inf - inf


def cosines(zimg_ID: jax.Array, zcap_UD: jax.Array) -> jax.Array:
    """[I, U], at full precision even where matrix products default to less (TPU, TF32)."""
    return jnp.einsum("id,ud->iu", zimg_ID, zcap_UD, precision="highest")


def _at_least_float32(z_ND: jax.Array) -> jax.Array:
    """A gradient has the dtype of its array; summed over tiles in bfloat16, it would lose most of what each tile
    adds."""
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
    label_smoothing: float = 0.0,
    layout: Layout = DENSE,
) -> jax.Array:
    """The sigmoid loss of arXiv 2303.15343, eq. 1, over the expanded batch: mean over images of the sum over captions.

    Args: unit embeddings (rows), scale t and bias b of the logits ``t * cosine + b`` (scalars), labels. Returns a
    float32 scalar. Raises ValueError for label smoothing, which is not defined for this loss.
    """
    if label_smoothing:
        raise ValueError(f"label_smoothing is {label_smoothing}; the sigmoid loss has none: set it to 0")

    def tile_loss(images: Side, captions: Side, scale_bias: tuple[jax.Array, jax.Array]) -> jax.Array:
        scale, bias = scale_bias
        logits_IU = scale * cosines(images.values, captions.values) + bias
        counts = cell_counts(images.labels, captions.labels, counting, hard_negative_weight)
        total_IU = images.labels.mult_I[:, None] * captions.labels.mult_U
        negative_IU = (total_IU - counts.positive_IU) * counts.others_IU
        return jnp.sum(counts.positive_IU * jax.nn.softplus(-logits_IU) + negative_IU * jax.nn.softplus(logits_IU))

    image_side, caption_side = Side(_at_least_float32(zimg_ID), images), Side(_at_least_float32(zcap_UD), captions)
    total = total_over_tiles(tile_loss, layout, image_side, caption_side, (scale, bias))
    return total / jnp.sum(images.mult_I)


# ---- Softmax --------------------------------------------------------------------------------------------------------


class _Stats(NamedTuple):
    """For each row (or column) of the matrix: log of its weighted sum of exponentials, number of positives, total
    weight."""

    lse: jax.Array
    positives: jax.Array
    weight: jax.Array


def weighted_exponents(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """``logits + log(weights)``, or the floor where the weight is 0."""
    return jnp.where(weights > 0, logits + jnp.log(jnp.where(weights > 0, weights, 1.0)), FLOOR)


class Cells(NamedTuple):
    """Logits and positive counts of a tile's cells, and their weights in the sums of their row and their column."""

    logits_IU: jax.Array
    positive_IU: jax.Array
    row_weight_IU: jax.Array
    column_weight_IU: jax.Array


MakeCells = Callable[[jax.Array, jax.Array, ImageLabels, CaptionLabels, jax.Array], Cells]


def _softmax_cells(
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    images: ImageLabels,
    captions: CaptionLabels,
    scale: jax.Array,
    counting: str,
    hard_negative_weight: float,
) -> Cells:
    counts = cell_counts(images, captions, counting, hard_negative_weight)
    row_weight_IU = captions.mult_U * counts.others_IU
    column_weight_IU = images.mult_I[:, None] * counts.others_IU
    return Cells(scale * cosines(zimg_ID, zcap_UD), counts.positive_IU, row_weight_IU, column_weight_IU)


def _stats(cells: Cells, weight_IU: jax.Array, axis: int) -> _Stats:
    lse = jax.nn.logsumexp(weighted_exponents(cells.logits_IU, weight_IU), axis=axis)
    return _Stats(lse, cells.positive_IU.sum(axis), weight_IU.sum(axis))


def _add(stats: _Stats, other: _Stats) -> _Stats:
    lse = jnp.logaddexp(stats.lse, other.lse)
    return _Stats(lse, stats.positives + other.positives, stats.weight + other.weight)


def _log_sums_primal(
    make_cells: MakeCells, layout: Layout, images: Side, captions: Side, scale: jax.Array
) -> tuple[_Stats, _Stats]:
    """Statistics of all rows and all columns. Only the log-sums have gradients; positives and weights count as
    constants. ``make_cells``: of unit embeddings, labels and the scale, such as ``_softmax_cells`` with its options."""

    def visit(images: Side, captions: Side, rows: _Stats, scale: jax.Array) -> tuple[_Stats, _Stats]:
        cells = make_cells(images.values, captions.values, images.labels, captions.labels, scale)
        return _add(rows, _stats(cells, cells.row_weight_IU, 1)), _stats(cells, cells.column_weight_IU, 0)

    def empty(mult: jax.Array) -> _Stats:
        zeros = jnp.zeros(mult.shape, images.values.dtype)
        return _Stats(zeros + FLOOR, zeros, zeros)

    rows, columns = empty(images.labels.mult_I), empty(captions.labels.mult_U)
    return sweep(visit, _add, layout, images, captions, rows, columns, scale)


def _log_sums_forward(
    make_cells: MakeCells, layout: Layout, images: Side, captions: Side, scale: jax.Array
) -> tuple[tuple[_Stats, _Stats], Any]:
    stats = log_sums(make_cells, layout, images, captions, scale)
    return stats, (images, captions, scale, stats)


def _log_sums_backward(
    make_cells: MakeCells, layout: Layout, saved: Any, upstream: tuple[_Stats, _Stats]
) -> tuple[Side, Side, jax.Array]:
    images, captions, scale, (rows, columns) = saved

    def surrogate(images: Side, captions: Side, scale: jax.Array) -> jax.Array:
        # With the log-sums held fixed, its gradient is theirs: softmax weights times d logit, times upstream.
        image_labels, row_lse_I, row_upstream_I = images.labels
        caption_labels, column_lse_U, column_upstream_U = captions.labels
        logits_IU, _, row_weight_IU, column_weight_IU = make_cells(
            images.values, captions.values, image_labels, caption_labels, scale
        )
        row = jnp.exp(weighted_exponents(logits_IU, row_weight_IU) - row_lse_I[:, None]) * row_upstream_I[:, None]
        column = jnp.exp(weighted_exponents(logits_IU, column_weight_IU) - column_lse_U) * column_upstream_U
        return jnp.sum(row) + jnp.sum(column)

    one = jnp.ones((), scale.dtype)
    row_side = Side(images.values, (images.labels, rows.lse, upstream[0].lse))
    column_side = Side(captions.values, (captions.labels, columns.lse, upstream[1].lse))
    dimages, dcaptions, dscale = gradients(surrogate, layout, row_side, column_side, scale, one)
    return Side(dimages, None), Side(dcaptions, None), dscale


log_sums = jax.custom_vjp(_log_sums_primal, nondiff_argnums=(0, 1))
log_sums.defvjp(_log_sums_forward, _log_sums_backward)


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
    bias: jax.Array | None = None,
    to_images: bool = True,
) -> jax.Array:
    """Mean of the image-to-text and the text-to-image cross-entropy over the expanded batch: CLIP, and NegCLIP with
    its extra columns.

    An image without a sampled caption (the sentinel) is a column of text-to-image but has no row of its own; a caption
    sampled only as a negative is a column of image-to-text but has no row of its own. With B images, B hard images and
    4B texts this is the loss of the published NegCLIP (``neg_clip`` fork of OpenCLIP). The positives of a row share its
    target equally (UniCL, arXiv 2204.03610, eq. 3). Copies left out by ``match_ignore`` are in neither the target nor
    the sum, and each positive is contrasted with the negatives alone.

    Args: unit embeddings (rows), scale t of the logits ``t * cosine``, labels; a bias would not change the softmax and
    is ignored; without ``to_images``, the loss is the image-to-text cross-entropy alone. Returns a float32 scalar.
    Raises ValueError for label smoothing with ``match_ignore``: each positive then has a denominator of its own, so
    there is no common set of classes to smooth over.
    """
    if label_smoothing and counting == "match_ignore":
        raise ValueError(f"label_smoothing is {label_smoothing}: not defined for counting 'match_ignore'; set it to 0")
    zimg_ID, zcap_UD = _at_least_float32(zimg_ID), _at_least_float32(zcap_UD)
    make_cells = functools.partial(_softmax_cells, counting=counting, hard_negative_weight=hard_negative_weight)
    # One sweep over the tiles for the log-sums, another for the cross-entropy given them. The second is differentiated
    # in them, so they are among its ``values``, and their gradient reaches ``log_sums``.
    rows, columns = log_sums(make_cells, layout, Side(zimg_ID, images), Side(zcap_UD, captions), scale)

    row_share_I = images.mult_I * (rows.positives > 0)
    # As published, only copies sampled as positives are rows of text-to-image; with match_positive, every copy that is
    # true of some image is.
    copies_U = captions.mult_U * (columns.positives > 0) if counting == "match_positive" else columns.positives
    separate = counting == "match_ignore"  # the sums hold negatives only

    def cross_entropy(
        cells: Cells, weight_IU: jax.Array, lse: jax.Array, share: jax.Array, stats: _Stats, axis: int
    ) -> jax.Array:
        expand = functools.partial(jnp.expand_dims, axis=axis)
        target = (1 - label_smoothing) * cells.positive_IU / jnp.maximum(expand(stats.positives), 1e-9)
        target += label_smoothing * weight_IU / jnp.maximum(expand(stats.weight), 1e-9)
        cost = (jnp.logaddexp(expand(lse), cells.logits_IU) if separate else expand(lse)) - cells.logits_IU
        return jnp.sum(expand(share) * target * cost)

    def tile_loss(images: Side, captions: Side, scale: jax.Array) -> jax.Array:
        (zimg_ID, row_lse_I), (image_labels, row_share_I, rows) = images
        (zcap_UD, column_lse_U), (caption_labels, column_share_U, columns) = captions
        cells = make_cells(zimg_ID, zcap_UD, image_labels, caption_labels, scale)
        return cross_entropy(cells, cells.row_weight_IU, row_lse_I, row_share_I, rows, 1) + cross_entropy(
            cells, cells.column_weight_IU, column_lse_U, column_share_U, columns, 0
        )

    row_share_I /= jnp.maximum(jnp.sum(row_share_I), 1)  # a batch may have no row
    column_share_U = copies_U / jnp.maximum(jnp.sum(copies_U), 1) if to_images else jnp.zeros_like(copies_U)
    row_side = Side((zimg_ID, rows.lse), (images, row_share_I, rows))
    column_side = Side((zcap_UD, columns.lse), (captions, column_share_U, columns))
    return total_over_tiles(tile_loss, layout, row_side, column_side, scale) / (1 + to_images)


class Objective(NamedTuple):
    """``loss`` takes the two embeddings, and the other arguments of ``softmax_loss`` by keyword. ``needs_bias``: a
    checkpoint without a bias gets one, calibrated on the first batch. ``smooths_labels``:
    ``config.objective.label_smoothing`` may be set; ``has_negatives``: so may ``hard_negative_weight``."""

    loss: Callable[..., jax.Array]
    needs_bias: bool
    smooths_labels: bool = False
    has_negatives: bool = True


# config.objective.name -> objective. To add a loss, add a line here or in a config file.
OBJECTIVES: dict[str, Objective] = {
    "softmax": Objective(softmax_loss, needs_bias=False, smooths_labels=True),
    "softmax_each": Objective(over_positives(softmax_loss), needs_bias=False, smooths_labels=True, has_negatives=False),
    "sigmoid": Objective(sigmoid_loss, needs_bias=True),
}
