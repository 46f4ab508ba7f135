"""Training data without files, for plans on a machine that has none, and for checks before there are any: as many
captions as any recipe takes, all of them different, so that a batch is as large as it can be.

Shape letters: N images, G caption groups, C captions of one polarity; a trailing 1 means one extra entry.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from naturel_jax.data.items.items import Captions, Items, Ragged, Source
from naturel_jax.data.text.processor import Processor, resizing
from naturel_jax.models.two_tower import TwoTowerConfig
from tfds_naturel.common.errors import UserError

_PAIRS = 4  # positives and negatives of an image, as in NatuRel: the first pair is simple, the others are complex


def source(name: str, images: int) -> Source:
    """``images`` images, each with one group of ``_PAIRS`` pairs. ``read_image`` raises UserError."""
    captions, pair_C = np.arange(_PAIRS * images), np.tile(np.arange(_PAIRS, dtype=np.int32), images)
    starts, every_N1 = np.arange(images + 1), np.arange(images + 1) * _PAIRS
    positives, negatives = (Captions(every_N1, 2 * captions + side, pair_C, pair_C == 0) for side in range(2))
    items = Items(
        name=name,
        image_ids=[f"{name} image {n}" for n in range(images)],
        texts=[f"{name} caption {n}" for n in range(2 * len(captions))],
        facts=[f"fact {n}" for n in range(_PAIRS)],
        groups_N1=starts,
        attribute_G=np.zeros(images, bool),
        positives=positives,
        negatives=negatives,
        shows=Ragged(every_N1, pair_C),
        asserts=Ragged(np.arange(2 * len(captions) + 1), np.repeat(pair_C, 2)),
    )
    return Source(items, _no_image)


def _no_image(n: int) -> bytes:
    raise UserError(f"image {n}: stand-ins for training data have no files")


@dataclasses.dataclass(frozen=True)
class _Processor(Processor):
    """Every text is ``length`` tokens long."""

    length: int = 1
    end: int = 0

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids [len(texts), context], int32."""
        tokens = np.full((len(texts), self.context), self.end + 1, np.int32)
        tokens[:, self.length - 1 :] = self.end
        return tokens


def processor(sizes: TwoTowerConfig, tokens: int, max_patches: int = 0) -> Processor:
    """A processor whose tokenizer makes every text ``tokens`` long, special tokens included, or as long as the context
    if that is shorter. ``max_patches``: see ``resizing``."""
    return _Processor(
        tokenizer="",
        context=sizes.text.context,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        length=min(tokens, sizes.text.context),
        end=sizes.text.eos_id or 0,
        **resizing(sizes.image, max_patches),
    )
