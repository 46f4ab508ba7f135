"""What the terms of the objective have in common.

Shape letters: I images, U distinct captions, K captions sampled per image, D embedding.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import above, setting
from naturel_jax.losses.batch import CaptionLabels, ImageLabels
from naturel_jax.losses.tiles import DENSE, Layout
from tfds_naturel.common.errors import UserError


class Embedded(NamedTuple):
    """An embedded batch, as the terms of ``config.objective.terms`` see it: unit embeddings, scale and bias of the
    logits, labels, the layout of tiles; ``base``: the embeddings zimg_ID and zcap_UD of the parameters that training
    started from, or of their moving average, if a term needs them."""

    zimg_ID: jax.Array
    zcap_UD: jax.Array
    scale: jax.Array
    bias: jax.Array
    images: ImageLabels
    captions: CaptionLabels
    layout: Layout = DENSE
    base: tuple[jax.Array, jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class Term:
    """The options of a term, the fields of ``config.objective.terms.NAME``; calling them gives its unweighted value,
    a scalar. ``needs_base``: it reads ``Embedded.base``, at the cost of a second forward pass; ``of_average``: that is
    to be of the moving average of the parameters, not of those that training started from; ``drops_hard_images``: the
    objective is computed without hard images that have exchanged captions; ``sampled``: the positives and negatives of
    an image without which it would be 0."""

    weight: float = setting(1.0, "factor of the term in the loss", above(0))
    needs_base = False
    of_average = False
    drops_hard_images = False
    sampled = (0, 0)

    def __call__(self, z: Embedded) -> jax.Array:
        raise NotImplementedError

    def check_sampled(self, field: str, positives: float, negatives: float) -> None:
        """Raises UserError if the recipes sample fewer captions of an image, these at most, than the term needs."""
        if positives < self.sampled[0] or negatives < self.sampled[1]:
            raise UserError(
                f"{field} needs {self.sampled[0]} positives and {self.sampled[1]} negatives of an image; the recipes "
                f"of config.data.mixture sample at most {positives} and {negatives}: use another recipe, or leave out "
                "the term"
            )


def values_of(terms: Mapping[str, Term], z: Embedded) -> dict[str, jax.Array]:
    """The unweighted value of each term. Raises UserError for one whose captions no image of the batch has."""
    for name, term in terms.items():
        term.check_sampled(
            f"config.objective.terms.{name}", z.images.positives_IK.shape[1], z.images.negatives_IK.shape[1]
        )
    return {name: term(z) for name, term in terms.items()}


def caption_rows(z: Embedded, ids_IK: jax.Array) -> jax.Array:
    """The row of each caption id in the batch, int32 [I, K]; some row for padding. One column at a time: K is small,
    but an [I, K, U] array is not."""
    columns = [jnp.argmax(ids_IK[:, k, None] == z.captions.id_U, axis=1) for k in range(ids_IK.shape[1])]
    return jnp.stack(columns, axis=1)


def mean_over_images(value_I: jax.Array, counts_I: jax.Array, z: Embedded) -> jax.Array:
    """Mean over the copies of the images that count (bool); 0 if none does."""
    copies_I = jnp.where(counts_I, z.images.mult_I, 0)
    total = jnp.sum(copies_I * jnp.where(counts_I, value_I, 0))
    return total / jnp.maximum(jnp.sum(copies_I), 1)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of the valid values along the last axis; 0 if there is none."""
    return jnp.sum(jnp.where(valid, values, 0), -1) / jnp.maximum(jnp.sum(valid, -1), 1)
