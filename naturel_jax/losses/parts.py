"""Losses of a part of a batch: of some of the images, or of the first, the second ... positives alone.

Shape letters: I images, U distinct captions, K captions sampled per image, D embedding.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from naturel_jax.losses.batch import CaptionLabels, ImageLabels


def only(images: ImageLabels, kept_I: jax.Array, *, as_columns: bool = False) -> ImageLabels:
    """The labels of the images ``kept_I`` (bool) alone, or, ``as_columns``, with the others as images without
    captions: negatives of every caption, as the sentinel is."""
    return images._replace(
        mult_I=images.mult_I if as_columns else jnp.where(kept_I, images.mult_I, 0),
        positives_IK=jnp.where(kept_I[:, None], images.positives_IK, -1),
        negatives_IK=jnp.where(kept_I[:, None], images.negatives_IK, -1),
        exchanged_I=None,
    )


def over_positives(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The mean over k of ``loss`` on the images and their k-th positives alone, over the k for which an image of the
    batch has one: CLIC's contrast (arXiv 2505.24424, eq. 4). Negatives are in none.

    Each copy of an image has all its positives. Images that have no k-th positive are negatives of the others'.
    """

    @functools.wraps(loss)
    def mean(
        zimg_ID: jax.Array,
        zcap_UD: jax.Array,
        scale: jax.Array,
        images: ImageLabels,
        captions: CaptionLabels,
        **options: Any,
    ) -> jax.Array:
        def add(sums: tuple[jax.Array, jax.Array], own_I: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            own_I1, copies_I = own_I[:, None], jnp.where(own_I >= 0, images.mult_I, 0)
            mult_U = jnp.sum(jnp.where(own_I1 == captions.id_U, copies_I[:, None], 0), axis=0)
            labels = images._replace(positives_IK=own_I1, negatives_IK=jnp.full_like(own_I1, -1))
            value = loss(zimg_ID, zcap_UD, scale, labels, captions._replace(mult_U=mult_U), **options)
            return (sums[0] + value, sums[1] + (jnp.sum(copies_I) > 0)), None

        zero = jnp.zeros((), zimg_ID.dtype)
        (total, present), _ = jax.lax.scan(add, (zero, zero), images.positives_IK.T)  # one at a time in memory
        return total / present

    return mean
