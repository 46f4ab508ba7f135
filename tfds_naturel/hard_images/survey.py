"""A compact index of which image shows which triplets, used to assign splits and mine negatives.

Shape letters: N images; a trailing 1 means one extra entry.
"""

import dataclasses
import json
from collections.abc import Container, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfds_naturel.common.schema import Triplet

_NAMES = "triplets"


@dataclasses.dataclass(frozen=True)
class Survey:
    """Image n shows ``triplets[t]`` for t in ``shown[first_N1[n] : first_N1[n + 1]]``, each once."""

    image_ids: list[str]
    triplets: list[Triplet]
    first_N1: np.ndarray
    shown: np.ndarray

    @classmethod
    def from_images(cls, images: Iterable[tuple[str, Sequence[Triplet]]]) -> "Survey":
        """Builds the index from the (image id, distinct triplets) of each image."""
        image_ids: list[str] = []
        first: list[int] = [0]
        shown: list[int] = []
        numbers: dict[Triplet, int] = {}
        for image_id, triplets in images:
            image_ids.append(image_id)
            shown.extend(numbers.setdefault(triplet, len(numbers)) for triplet in triplets)
            first.append(len(shown))
        return cls(image_ids, list(numbers), np.array(first), np.array(shown, np.int32))

    def to_bytes(self) -> bytes:
        """For another process, which reads it by ``from_bytes``."""
        shown = pa.LargeListArray.from_arrays(self.first_N1, self.shown)
        names = json.dumps([str(triplet) for triplet in self.triplets])
        table = pa.table({"image_id": pa.array(self.image_ids, pa.string()), "shown": shown}, metadata={_NAMES: names})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Survey":
        """What ``to_bytes`` made."""
        table = pa.ipc.open_stream(data).read_all()
        triplets = [Triplet.parse(name) for name in json.loads(table.schema.metadata[_NAMES.encode()])]
        first_N1 = np.cumsum([0, *pc.list_value_length(table["shown"]).to_pylist()])
        return cls(table["image_id"].to_pylist(), triplets, first_N1, pc.list_flatten(table["shown"]).to_numpy())

    def triplets_of(self, n: int) -> list[Triplet]:
        """The triplets that image ``n`` shows."""
        return [self.triplets[t] for t in self.shown[self.first_N1[n] : self.first_N1[n + 1]]]

    def images_of(self) -> list[np.ndarray]:
        """For each triplet, the images that show it, in ascending order."""
        image = np.repeat(np.arange(len(self.image_ids)), np.diff(self.first_N1))
        order = np.argsort(self.shown, kind="stable")
        return np.split(image[order], np.searchsorted(self.shown[order], np.arange(1, len(self.triplets))))

    def count(self, image_ids: Container[str]) -> dict[Triplet, int]:
        """Number of images in ``image_ids`` that show each triplet; triplets without any are left out."""
        counted = np.array([image_id in image_ids for image_id in self.image_ids], bool)
        counts = np.bincount(self.shown[np.repeat(counted, np.diff(self.first_N1))], minlength=len(self.triplets))
        return {triplet: int(count) for triplet, count in zip(self.triplets, counts, strict=True) if count}
