"""Which of an image's mined hard images show what its false caption claims (TripletCLIP, ConCLIP).

Shape letters: B images, C candidates of all of them.
"""

import numpy as np

from naturel_jax.data.batches.recipes import Sampled
from naturel_jax.data.items.items import Items
from naturel_jax.data.items.ragged import Ragged


def showing_false_captions(items: Items, candidates: Ragged, positives: Sampled, negatives: Sampled) -> Ragged:
    """The ``candidates`` of each image of which its sampled negatives are true and its positives are not.

    A negative that asserts facts is true of an image that shows one of them. One that asserts none, such as a denial,
    or one whose facts are not known, is true of any image that does not show the positive's.
    """
    width = 1 + len(items.facts)
    shown = items.shows.take(candidates.values)
    shown_keys = candidates.rows[shown.rows] * width + shown.values

    def asserted(captions: Sampled) -> np.ndarray:
        facts = items.asserts.take(captions.texts.values)
        keys: np.ndarray = captions.texts.rows[facts.rows] * width + facts.values
        return keys

    def shows_any(keys: np.ndarray) -> np.ndarray:
        return np.bincount(shown.rows[np.isin(shown_keys, keys)], minlength=len(candidates.values)) > 0

    claims = asserted(negatives)
    claims_none_C = ~np.isin(candidates.rows, claims // width)
    return candidates.keep((claims_none_C | shows_any(claims)) & ~shows_any(asserted(positives)))
