"""The further positives of an image, such as phrases or units of its caption, as captions of a loss of their own
(CS-CLIP, C2LIP).

Shape letters: I (and J) images, U distinct captions, A facts asserted per caption, K captions sampled per image, D
embedding.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import one_of, setting
from naturel_jax.losses.batch import CaptionLabels, cell_counts
from naturel_jax.losses.objectives import FLOOR, weighted_exponents
from naturel_jax.losses.terms.term import Embedded, Term, caption_rows


class _Units(NamedTuple):
    """One further positive of each image: cosines with all images, copies of images and units (0: has none), weights
    of the cells that are not an image's own, and the logit of its foil."""

    logits_IJ: jax.Array
    image_mult_I: jax.Array
    mult_J: jax.Array
    others_IJ: jax.Array
    foil_I: jax.Array


@dataclasses.dataclass(frozen=True)
class FurtherPositives(Term):
    """Mean of ``_FORMS[form]`` over the copies of all further positives: each stands in a batch of the images that have
    captions and of their positives of the same number. An image's foil is its negative of that number, if any."""

    sampled = (2, 0)
    form: str = setting(
        "softmax",
        "softmax: both directions, with an image's own foil (CS-CLIP); sigmoid: no foils (C2LIP)",
        one_of("softmax", "sigmoid"),
    )
    counting: str = setting(
        "published",
        "further positives of other images that are true of this one: published: negatives; match_ignore: left out",
        one_of("published", "match_ignore"),
    )

    def __call__(self, z: Embedded) -> jax.Array:
        units = [self._units(z, k) for k in range(1, z.images.positives_IK.shape[1])]
        total = sum(jnp.sum(unit.mult_J * _FORMS[self.form](z, unit)) for unit in units)
        return total / jnp.maximum(sum(jnp.sum(unit.mult_J) for unit in units), 1)

    def _units(self, z: Embedded, k: int) -> _Units:
        images, captions = z.images, z.captions
        rows_J = caption_rows(z, images.positives_IK[:, k, None])[:, 0]
        mult_J = jnp.where(images.positives_IK[:, k] >= 0, images.mult_I, 0)
        labels = CaptionLabels(mult_J, images.positives_IK[:, k], captions.asserts_UA[rows_J])
        others_IJ = cell_counts(images, labels, self.counting).others_IU
        others_IJ = jnp.where(jnp.eye(len(mult_J), dtype=bool), 1, others_IJ)  # an image's own is always there
        logits_IJ = z.scale * jnp.einsum("id,jd->ij", z.zimg_ID, z.zcap_UD[rows_J], precision="highest")
        foil_I = jnp.full(len(mult_J), FLOOR, logits_IJ.dtype)
        if k < images.negatives_IK.shape[1]:
            zfoil_ID = z.zcap_UD[caption_rows(z, images.negatives_IK[:, k, None])[:, 0]]
            logit_I = z.scale * jnp.einsum("id,id->i", z.zimg_ID, zfoil_ID, precision="highest")
            foil_I = jnp.where(images.negatives_IK[:, k] >= 0, logit_I, FLOOR)
        image_mult_I = jnp.where(images.positives_IK[:, 0] >= 0, images.mult_I, 0)
        return _Units(logits_IJ, image_mult_I, mult_J, others_IJ, foil_I)


def _softmax(z: Embedded, units: _Units) -> jax.Array:
    del z

    def log_sums(mult: jax.Array, axis: int) -> jax.Array:
        return jax.nn.logsumexp(weighted_exponents(units.logits_IJ, mult * units.others_IJ), axis=axis)

    to_texts_I = jnp.logaddexp(log_sums(units.mult_J, 1), units.foil_I)
    to_images_J = log_sums(units.image_mult_I[:, None], 0)
    return (to_texts_I + to_images_J) / 2 - jnp.diagonal(units.logits_IJ)


def _sigmoid(z: Embedded, units: _Units) -> jax.Array:
    logits_IJ = units.logits_IJ + z.bias
    own_IJ = jnp.eye(len(logits_IJ), dtype=bool)
    cost_IJ = jnp.where(own_IJ, jax.nn.softplus(-logits_IJ), units.others_IJ * jax.nn.softplus(logits_IJ))
    return jnp.sum(units.image_mult_I[:, None] * cost_IJ, axis=0)


_FORMS: dict[str, Callable[[Embedded, _Units], jax.Array]] = {"softmax": _softmax, "sigmoid": _sigmoid}
