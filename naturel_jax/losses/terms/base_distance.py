"""How far embeddings are from those of the parameters that training started from, or of their moving average.

Shape letters: I images, U distinct captions, D embedding, N of either.
"""

import dataclasses

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import at_least, setting
from naturel_jax.losses.terms.term import Embedded, Term
from naturel_jax.losses.tiles import Side, total_over_tiles
from tfds_naturel.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class BaseDistance(Term):
    """``mse`` and ``cosine`` are sums of an image and a caption part, means over the copies of all images and of all
    captions; ``similarity`` is a mean over all cells of the expanded batch."""

    needs_base = True
    mse: float = setting(1.0, "factor of the mean squared difference of coordinates", at_least(0))
    cosine: float = setting(0.0, "factor of 1 - cosine between embedding and base embedding", at_least(0))
    similarity: float = setting(0.0, "factor of the mean squared difference of image-caption cosines", at_least(0))
    of_average: bool = setting(False, "the base is the moving average (config.optim.ema) as it was before the step")

    def __post_init__(self) -> None:
        if not (self.mse or self.cosine or self.similarity):
            raise UserError(
                "config.objective.terms.base_distance has mse, cosine and similarity 0; expected one above 0: set it, "
                "or leave out the term"
            )

    def __call__(self, z: Embedded) -> jax.Array:
        assert z.base is not None
        total = jnp.zeros((), z.zimg_ID.dtype)
        sides = ((z.zimg_ID, z.base[0], z.images.mult_I), (z.zcap_UD, z.base[1], z.captions.mult_U))
        for z_ND, base_ND, mult_N in sides:
            cost_N = self.mse * jnp.mean((z_ND - base_ND) ** 2, 1) + self.cosine * (1 - jnp.sum(z_ND * base_ND, 1))
            total += jnp.sum(mult_N * cost_N) / jnp.sum(mult_N)
        return total + self.similarity * _similarity(z) if self.similarity else total


def _similarity(z: Embedded) -> jax.Array:
    def tile(images: Side, captions: Side, shared: tuple[()]) -> jax.Array:
        (mult_I, base_ID), (mult_U, base_UD) = images.labels, captions.labels
        moved_IU = _cosines(images.values, captions.values) - _cosines(base_ID, base_UD)
        return jnp.sum(mult_I[:, None] * mult_U * moved_IU**2)

    assert z.base is not None
    images, captions = Side(z.zimg_ID, (z.images.mult_I, z.base[0])), Side(z.zcap_UD, (z.captions.mult_U, z.base[1]))
    total = total_over_tiles(tile, z.layout, images, captions, ())
    return total / (jnp.sum(z.images.mult_I) * jnp.sum(z.captions.mult_U))


def _cosines(zimg_ID: jax.Array, zcap_UD: jax.Array) -> jax.Array:
    return jnp.einsum("id,ud->iu", zimg_ID, zcap_UD, precision="highest")
