"""Images that cannot be read while a run trains: others of their batch take their places, and they are counted.

In place of an image that is missing or broken, its row gets the next image of the batch that can be read, with that
image's captions, and a crop of its own. So a batch is still a function of (seed, step) and the files, whatever the
number of devices and processes. The captions of the image that is replaced stay, as negatives of the others.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from naturel_jax.losses.batch import ImageLabels
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

FEW = 10  # different images that are never too many, unless none is allowed
_NAMED = 10  # images that the log names


class Replaced(NamedTuple):
    """An image that cannot be read: its row, the row of the batch that stands in, its name, and the reason."""

    row: int
    by: int
    name: str
    reason: str


def relabel(labels: ImageLabels, replaced: Sequence[Replaced]) -> ImageLabels:
    """The labels of a batch in which rows are replaced."""

    def copied(of_row: np.ndarray) -> np.ndarray:
        out = np.array(of_row)
        for one in replaced:
            out[one.row] = of_row[one.by]
        return out

    return ImageLabels(*(x if x is None else copied(x) for x in labels)) if replaced else labels


class Reads:
    """Counts the images that this process has read for training, and those of them that it could not read.

    ``max_bad``: ``config.data.max_bad``; ``images``: number of images in all sources.
    """

    def __init__(self, max_bad: float, images: int):
        self._max_bad, self._images = max_bad, images
        self._read, self._replaced = 0, 0
        self._reasons: dict[str, str] = {}

    def add(self, read: int, replaced: Sequence[Replaced]) -> None:
        """Counts the images of a batch. Raises UserError once more different images than ``max_bad`` of those read
        so far, and more than ``FEW``, cannot be read."""
        self._read += read
        self._replaced += len(replaced)
        for one in replaced:
            if one.name not in self._reasons:
                self._reasons[one.name] = one.reason
                if len(self._reasons) <= _NAMED:
                    _LOG.warning("%s; another image of the batch takes its place", one.reason)
        seen = min(self._read, self._images)
        if len(self._reasons) > (max(FEW, self._max_bad * seen) if self._max_bad else 0):
            first = next(iter(self._reasons.values()))
            raise UserError(
                f"{len(self._reasons):,} of the {seen:,} images read so far cannot be ({first}); config.data.max_bad "
                f"is {self._max_bad:g}. Repair them, or raise config.data.max_bad, and run the same command again; "
                "python -m naturel_jax.data.check lists them all, for later runs: this one continues without its list"
            )

    def report(self) -> None:
        """Logs how often images were replaced."""
        if self._replaced:
            _LOG.warning(
                "%s of %s images were replaced by others of their batch, since %s cannot be read; "
                "python -m naturel_jax.data.check lists them, and later runs then leave them out; this one continues "
                "without that list",
                *(f"{self._replaced:,}", f"{self._read:,}", f"{len(self._reasons):,}"),
            )
