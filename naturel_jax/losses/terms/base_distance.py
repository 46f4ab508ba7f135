"""How far embeddings are from those of the parameters that training started from, or of their moving average.

Shape letters: I images, U distinct captions, D embedding, N of either.
"""

import dataclasses

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import at_least, setting
from naturel_jax.losses.batch import CaptionLabels, ImageLabels
from naturel_jax.losses.objectives import Cells, cosines, log_sums
from naturel_jax.losses.terms.term import Embedded, Term
from naturel_jax.losses.tiles import Side, total_over_tiles
from tfds_naturel.common.errors import UserError

_TEMPERATURE = 2.0


@dataclasses.dataclass(frozen=True)
class BaseDistance(Term):
    """``mse`` and ``cosine`` are sums of an image and a caption part, means over the copies of all images and of all
    captions; ``similarity`` is a mean over all cells of the expanded batch. ``distillation`` is the sum of both
    directions' Kullback-Leibler divergence from the softmax of the base's logits to that of the logits, both divided by
    T = 2, times T^2 (LwF, arXiv 1606.09282, as in ZSCL's code, arXiv 2303.06628); the scale is that of the step, and
    has no gradient."""

    needs_base = True
    mse: float = setting(1.0, "factor of the mean squared difference of coordinates", at_least(0))
    cosine: float = setting(0.0, "factor of 1 - cosine between embedding and base embedding", at_least(0))
    similarity: float = setting(0.0, "factor of the mean squared difference of image-caption cosines", at_least(0))
    distillation: float = setting(0.0, "factor of the divergence from the base's softmax, temperature 2", at_least(0))
    of_average: bool = setting(False, "the base is the moving average (config.optim.ema) as it was before the step")

    def __post_init__(self) -> None:
        if not (self.mse or self.cosine or self.similarity or self.distillation):
            raise UserError(
                "config.objective.terms.base_distance has mse, cosine, similarity and distillation 0; expected one "
                "above 0: set it, or leave out the term"
            )

    def __call__(self, z: Embedded) -> jax.Array:
        assert z.base is not None
        total = jnp.zeros((), z.zimg_ID.dtype)
        sides = ((z.zimg_ID, z.base[0], z.images.mult_I), (z.zcap_UD, z.base[1], z.captions.mult_U))
        for z_ND, base_ND, mult_N in sides:
            cost_N = self.mse * jnp.mean((z_ND - base_ND) ** 2, 1) + self.cosine * (1 - jnp.sum(z_ND * base_ND, 1))
            total += jnp.sum(mult_N * cost_N) / jnp.sum(mult_N)
        if self.similarity:
            total += self.similarity * _similarity(z)
        if self.distillation:
            total += self.distillation * _distillation(z)
        return total


def _similarity(z: Embedded) -> jax.Array:
    def tile(images: Side, captions: Side, shared: tuple[()]) -> jax.Array:
        (mult_I, base_ID), (mult_U, base_UD) = images.labels, captions.labels
        moved_IU = cosines(images.values, captions.values) - cosines(base_ID, base_UD)
        return jnp.sum(mult_I[:, None] * mult_U * moved_IU**2)

    assert z.base is not None
    images, captions = Side(z.zimg_ID, (z.images.mult_I, z.base[0])), Side(z.zcap_UD, (z.captions.mult_U, z.base[1]))
    total = total_over_tiles(tile, z.layout, images, captions, ())
    return total / (jnp.sum(z.images.mult_I) * jnp.sum(z.captions.mult_U))


def _distillation(z: Embedded) -> jax.Array:
    assert z.base is not None
    scale = jax.lax.stop_gradient(z.scale) / _TEMPERATURE
    mult_I, mult_U = z.images.mult_I, z.captions.mult_U
    values, base = (
        log_sums(_cells, z.layout, Side(zimg_ID, z.images), Side(zcap_UD, z.captions), scale)
        for zimg_ID, zcap_UD in ((z.zimg_ID, z.zcap_UD), z.base)
    )

    # With the base's softmax p, the divergence of a row is the sum of p * (base logit - logit), and the difference of
    # the log-sums.
    def tile(images: Side, captions: Side, shared: tuple[jax.Array, ...]) -> jax.Array:
        (mult_I, base_ID, lse_I), (mult_U, base_UD, lse_U) = images.labels, captions.labels
        scale, rows, columns = shared
        base_IU = scale * cosines(base_ID, base_UD)
        moved_IU = base_IU - scale * cosines(images.values, captions.values)
        share_IU = jnp.exp(base_IU - lse_I[:, None]) / rows + jnp.exp(base_IU - lse_U) / columns
        return jnp.sum(mult_I[:, None] * mult_U * share_IU * moved_IU)

    shared = scale, jnp.sum(mult_I), jnp.sum(mult_U)
    images = Side(z.zimg_ID, (mult_I, z.base[0], base[0].lse))
    captions = Side(z.zcap_UD, (mult_U, z.base[1], base[1].lse))
    total = total_over_tiles(tile, z.layout, images, captions, shared)
    for stats, base_stats, mult_N in zip(values, base, (mult_I, mult_U), strict=True):
        total += jnp.sum(mult_N * (stats.lse - base_stats.lse)) / jnp.sum(mult_N)
    return _TEMPERATURE**2 * total


def _cells(
    zimg_ID: jax.Array, zcap_UD: jax.Array, images: ImageLabels, captions: CaptionLabels, scale: jax.Array
) -> Cells:
    logits_IU = scale * cosines(zimg_ID, zcap_UD)
    weights = (jnp.broadcast_to(mult, logits_IU.shape) for mult in (captions.mult_U, images.mult_I[:, None]))
    return Cells(logits_IU, jnp.zeros_like(logits_IU), *weights)
