"""The batch that a training step takes, and how often each (image, caption) cell counts as positive or negative.

A batch holds distinct images and captions; where an epoch ends within it, or by a mined hard image, an image may have
two rows, each with captions of its own. In the *expanded batch*, the conventional one, each has as many rows as its
multiplicity says. The *sentinel* is the blank image that recipes use as a negative of every image: one row in each
shard of the batch, with as many copies as the shard's images. A caption is true of an image if it asserts a fact, such
as a triplet, that the image shows, or was sampled for it as a positive. On devices, all leading axes are split over the
batch axes of the mesh. docs/design.md explains why.

Shape letters: I images, H, W pixels, U distinct captions, K captions sampled per image, T facts shown per image, A
facts asserted per caption, L tokens, P patches that are kept, D embedding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naturel_jax.models.naflex import Patches

Array = Any  # a NumPy array on the host, a jax.Array on devices


class ImageLabels(NamedTuple):
    """What the losses need to know about each image. Rows of ids are padded with -1.

    mult_I: copies of the image in the expanded batch (float32; 0 for padding; the sentinel: its shard's);
    positives_IK, negatives_IK: ids of the captions sampled for it, for all its copies; shows_IT: ids of the facts it
    shows. Ids are int32. ``exchanged_I``: bool, whether it is a hard image that has the captions of the image it was
    mined for with positive and negative exchanged; None: the run has none.
    """

    mult_I: Array
    positives_IK: Array
    negatives_IK: Array
    shows_IT: Array
    exchanged_I: Array | None = None


class CaptionLabels(NamedTuple):
    """What the losses need to know about each distinct caption.

    mult_U: copies in the expanded batch (float32; 0 for padding), to which hard images with exchanged captions add
    none; id_U: the id by which ``ImageLabels`` refers to it (-2 for padding); asserts_UA: ids of the facts that its
    words assert, padded with -2 (several if different facts have the same wording).
    """

    mult_U: Array
    id_U: Array
    asserts_UA: Array


class Batch(NamedTuple):
    """One batch: images uint8 [I, H, W, 3] or ``naflex.Patches``, tokens int32 [U, L], and labels. For a frozen tower,
    unit embeddings, float32 [I, D] or [U, D], may replace images or tokens; their dtype tells them apart.
    ``patches_IP``: int32, the patches that the image tower sees, from 0 in row-major order; None: all."""

    images: Array
    tokens: Array
    image_labels: ImageLabels
    caption_labels: CaptionLabels
    patches_IP: Array | None = None

    @property
    def images_to_embed(self) -> int:
        """How many images go through the image tower."""
        return 0 if is_embedded(self.images) else len(self.image_labels.mult_I)

    @property
    def patches_to_embed(self) -> int | None:
        """How many patches of each image go through the image tower, for a NaFlex tower with padding; None: all."""
        if isinstance(self.images, Patches):
            return self.images.patches_IPV.shape[1]
        return None if self.patches_IP is None else self.patches_IP.shape[1]

    @property
    def captions_to_embed(self) -> tuple[int, int]:
        """How many captions go through the text tower, and how many tokens each has; (0, 0) if none does."""
        return (0, 0) if is_embedded(self.tokens) else self.tokens.shape


def is_embedded(rows: Array) -> bool:
    """Whether ``Batch.images`` or ``Batch.tokens`` are embeddings."""
    return not isinstance(rows, Patches) and bool(rows.dtype == np.float32)


# ---- Counts ----------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """For each cell of a tile: how often it is a positive in the expanded batch, and a weight: 1, 0 if what is not a
    positive is left out, or that of a hard negative. The sigmoid weighs the copies that are not positives, the softmax
    all copies in its sums."""

    positive_IU: jax.Array
    others_IU: jax.Array


def _hits(ids_IK: jax.Array, id_U: jax.Array) -> jax.Array:
    """How often each caption id occurs in each image's row, int32 [I, U]. One column at a time: K is small, but an
    [I, K, U] array is not."""
    zeros_IU = jnp.zeros((len(ids_IK), len(id_U)), jnp.int32)
    return sum((ids_IK[:, k, None] == id_U for k in range(ids_IK.shape[1])), start=zeros_IU)


# As published, a caption sampled for another image is a negative even if it is true of this one. The match-aware
# variants count it as a positive or leave it out.
COUNTING = ("published", "match_positive", "match_ignore")


def cell_counts(
    images: ImageLabels, captions: CaptionLabels, counting: str, hard_negative_weight: float = 1.0
) -> Counts:
    """The counts of every cell of a tile, float32 [I, U] each; ``counting`` is one of ``COUNTING``.

    A caption matches an image of which it is true. ``hard_negative_weight`` multiplies the weight of captions sampled
    as negatives of this image.
    """
    dtype = captions.mult_U.dtype
    sampled_IU = _hits(images.positives_IK, captions.id_U).astype(dtype)
    match_IU = sampled_IU > 0
    for a in range(captions.asserts_UA.shape[1]):
        match_IU |= _hits(images.shows_IT, captions.asserts_UA[:, a]) > 0
    total_IU = images.mult_I[:, None] * captions.mult_U
    positive_IU = jnp.where(match_IU, total_IU, 0) if counting == "match_positive" else sampled_IU
    others_IU = jnp.where(match_IU & (counting == "match_ignore"), 0, 1).astype(dtype)
    if hard_negative_weight != 1.0:
        hard_IU = _hits(images.negatives_IK, captions.id_U) > 0
        others_IU *= jnp.where(hard_IU, hard_negative_weight, 1.0)
    return Counts(positive_IU, others_IU)
