"""The batch that a training step takes: images, captions, and the labels that determine the counts of every cell.

Shape letters: I images, U distinct captions, K captions sampled per image, T triplets shown per image, A triplets
asserted per caption, L tokens, P patches that are kept.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # a NumPy array on the host, a jax.Array on devices


class ImageLabels(NamedTuple):
    """What the losses need to know about each image. Rows of ids are padded with -1.

    mult_I: copies of the image in the expanded batch (float32; 0 for padding, B for the sentinel);
    positives_IK, negatives_IK: ids of the captions sampled for it; shows_IT: ids of the triplets it shows.
    """

    mult_I: Array
    positives_IK: Array
    negatives_IK: Array
    shows_IT: Array


class CaptionLabels(NamedTuple):
    """What the losses need to know about each distinct caption.

    mult_U: copies in the expanded batch (float32; 0 for padding); id_U: the id by which ``ImageLabels`` refers to it
    (-2 for padding); asserts_UA: ids of the triplets that its words assert, padded with -2 (more than one where several
    triplets are worded alike).
    """

    mult_U: Array
    id_U: Array
    asserts_UA: Array


class Batch(NamedTuple):
    """One batch: images uint8 [I, H, W, 3], tokens int32 [U, L], and labels. In place of the images of a frozen tower,
    or of the tokens of one, their unit embeddings, float32 [I, D] or [U, D]. ``patches_IP``: the numbers of the patches
    that the image tower sees, row by row of the grid from 0, int32; None: all."""

    images: Array
    tokens: Array
    image_labels: ImageLabels
    caption_labels: CaptionLabels
    patches_IP: Array | None = None

    @property
    def images_to_embed(self) -> int:
        """How many images go through the image tower."""
        return 0 if is_embedded(self.images) else len(self.images)

    @property
    def patches_to_embed(self) -> int | None:
        """How many patches of each image go through the image tower; None: all."""
        return None if self.patches_IP is None else self.patches_IP.shape[1]

    @property
    def captions_to_embed(self) -> tuple[int, int]:
        """How many captions go through the text tower, and of how many tokens; (0, 0) if none does."""
        return (0, 0) if is_embedded(self.tokens) else self.tokens.shape


def is_embedded(rows: Array) -> bool:
    """Whether ``Batch.images`` or ``Batch.tokens`` are embeddings."""
    return bool(rows.dtype == np.float32)
