"""The batch as the step takes it: images, captions, and labels from which the counts of every cell follow.

Shape letters: I images, U distinct captions, K captions sampled for an image, T triplets an image shows, A triplets a
caption asserts, L tokens.
"""

from typing import Any, NamedTuple

Array = Any  # a NumPy array on the host, a jax.Array on devices


class ImageLabels(NamedTuple):
    """What the losses need to know of each image. Id rows are padded with -1.

    mult_I: copies of the image in the expanded batch (float32; 0 for padding, B for the sentinel);
    positives_IK, negatives_IK: ids of the captions sampled for it; shows_IT: ids of the triplets it shows.
    """

    mult_I: Array
    positives_IK: Array
    negatives_IK: Array
    shows_IT: Array


class CaptionLabels(NamedTuple):
    """What the losses need to know of each distinct caption.

    mult_U: copies in the expanded batch (float32; 0 for padding); id_U: what ``ImageLabels`` refers to (-2 for
    padding); asserts_UA: ids of the triplets that its words claim, padded with -2 (two rows where two triplets are
    spoken alike).
    """

    mult_U: Array
    id_U: Array
    asserts_UA: Array


class Batch(NamedTuple):
    """What the step takes: images uint8 [I, H, W, 3], tokens int32 [U, L], and labels."""

    images: Array
    tokens: Array
    image_labels: ImageLabels
    caption_labels: CaptionLabels
