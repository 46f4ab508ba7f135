"""Mined negative captions as a training source: a Parquet file with a row for each image, which ``parquet:`` reads.

The n-th negative of a row is the nearest caption that contradicts the n-th positive.

Shape letters: C captions of all triplets, D embedding.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from naturel_jax.data.items import prepared
from naturel_jax.evaluators.pool.mining import Model
from tfds_naturel.common.progress import Progress
from tfds_naturel.hard_images import captions, mining
from tfds_naturel.hard_images.survey import Survey

_TEXTS = ("positives", "negatives", "asserts", "negative_asserts", "shows")
_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("image", pa.binary()), *((name, pa.list_(pa.string())) for name in _TEXTS)]
)
_WRITTEN = 256  # rows per write, which have images


def write(path: Path, records: prepared.Records, shown: Survey, model: Model) -> int:
    """Writes the images of ``records`` that have a caption with a foil (``captions.Foils``); returns their number.

    Raises UserError if a triplet of the survey ``shown`` has no true caption.
    """
    true = prepared.true_captions(records, shown)
    z_CD = model.encoder.captions(model.params, [text for texts in true for text in texts])
    foils = captions.Foils(shown, true, z_CD)

    def rows() -> Iterator[tuple[str, bytes, list[str], list[str], list[str], list[str], list[str]]]:
        for n in Progress(range(len(records)), "foils", len(records)):
            if found := foils.of(n):
                texts, facts, negatives, claims = (list(map(str, column)) for column in zip(*found, strict=True))
                shows = [str(triplet) for triplet in shown.triplets_of(n)]
                yield shown.image_ids[n], prepared.read_image(records, n), texts, negatives, facts, claims, shows

    return mining.save(path, rows(), _SCHEMA, _WRITTEN)
