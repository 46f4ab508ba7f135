"""The positives of an image against those of the other images, text against text (READ-CLIP).

Shape letters: I (and J) images, U distinct captions, A facts asserted per caption, K positives sampled per image, D
embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import one_of, setting
from naturel_jax.losses.batch import CaptionLabels, cell_counts
from naturel_jax.losses.objectives import weighted_exponents
from naturel_jax.losses.terms.term import Embedded, Term, caption_rows, masked_mean, mean_over_images


@dataclasses.dataclass(frozen=True)
class TextContrast(Term):
    """Cross-entropy of each further positive of an image, its paraphrase, among the first positives of all images, of
    which that of its own image is the right one. One way only: paraphrases are rows, first positives columns. Images
    with one positive are columns, not rows."""

    sampled = (2, 0)
    counting: str = setting(
        "published",
        "first positives of other images that are true of this one: published: negatives; match_ignore: left out",
        one_of("published", "match_ignore"),
    )

    def __call__(self, z: Embedded) -> jax.Array:
        images, captions = z.images, z.captions
        rows_IK, is_positive_IK = caption_rows(z, images.positives_IK), images.positives_IK >= 0
        first = CaptionLabels(
            jnp.where(is_positive_IK[:, 0], images.mult_I, 0),
            images.positives_IK[:, 0],
            captions.asserts_UA[rows_IK[:, 0]],
        )
        others_IJ = cell_counts(images, first, self.counting).others_IU
        separate = self.counting == "match_ignore"  # the sums hold negatives only
        weight_IJ = first.mult_U * others_IJ
        zfirst_JD = z.zcap_UD[rows_IK[:, 0]]

        def cost(rows_I: jax.Array) -> jax.Array:
            logits_IJ = z.scale * jnp.einsum("id,jd->ij", z.zcap_UD[rows_I], zfirst_JD, precision="highest")
            own_I = jnp.diagonal(logits_IJ)
            lse_I = jax.nn.logsumexp(weighted_exponents(logits_IJ, weight_IJ), axis=1)
            return (jnp.logaddexp(lse_I, own_I) if separate else lse_I) - own_I

        is_row_IK = is_positive_IK[:, 1:]
        cost_IK = jnp.stack([cost(rows_IK[:, k]) for k in range(1, rows_IK.shape[1])], axis=1)
        return mean_over_images(masked_mean(cost_IK, is_row_IK), is_row_IK.any(1), z)
