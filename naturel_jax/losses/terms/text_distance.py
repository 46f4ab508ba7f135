"""The distance between the positives of an image, text against text (CLIC).

Shape letters: I images, U distinct captions, K positives sampled per image, D embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import at_least, setting
from naturel_jax.losses.terms.term import Embedded, Term, caption_rows, masked_mean, mean_over_images


@dataclasses.dataclass(frozen=True)
class TextDistance(Term):
    """Mean over images of the mean squared distance between their first positive and the ``further`` ones; a sum over
    coordinates, not their mean. Images with one positive do not count."""

    sampled = (2, 0)
    further: int = setting(0, "how many further positives are compared with the first; 0: all", at_least(0))

    def __call__(self, z: Embedded) -> jax.Array:
        zcap_IKD = z.zcap_UD[caption_rows(z, z.images.positives_IK)]
        stop = self.further + 1 if self.further else None
        distance_IK = jnp.sum((zcap_IKD[:, 1:stop] - zcap_IKD[:, :1]) ** 2, axis=2)
        is_further_IK = z.images.positives_IK[:, 1:stop] >= 0
        return mean_over_images(masked_mean(distance_IK, is_further_IK), is_further_IK.any(1), z)
