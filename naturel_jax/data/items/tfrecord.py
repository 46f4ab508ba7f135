"""Random access to the examples of a TFDS dataset in TFRecord, TFDS's default format.

A record is its length (8 bytes, little-endian), a checksum of it (4), its data, and a checksum of them (4). Where the
records are is found once, when a split is opened, by reading their lengths. The checksums are not compared: CRC-32C of
photos takes too long in Python.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tensorflow_datasets.core import splits
from tensorflow_datasets.core.data_sources import base

from tfds_naturel.common.errors import UserError

_HEAD, _TAIL = 12, 4  # bytes before and after the data


class TfRecords(Sequence[bytes]):
    """The records of several files, in order; ``counts``: how many each has. Raises UserError for a file that is cut
    short, or has another number of them."""

    def __init__(self, files: Sequence[str], counts: Sequence[int]):
        spans = [_spans(Path(file), count) for file, count in zip(files, counts, strict=True)]
        self._files, self._first_F = list(files), np.cumsum([0, *map(len, spans)])
        self._spans_N2 = np.concatenate(spans) if spans else np.empty((0, 2), np.int64)

    def __len__(self) -> int:
        return len(self._spans_N2)

    def __getitem__(self, n):  # type: ignore[no-untyped-def]  # an int, as Sequence declares it also for slices
        start, size = self._spans_N2[n].tolist()
        with open(self._files[int(np.searchsorted(self._first_F, n, side="right")) - 1], "rb") as file:
            return os.pread(file.fileno(), size, start)


def _spans(path: Path, expected: int) -> np.ndarray:
    """(first byte, size) of each record, int64 [N, 2]."""
    spans, start, total = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while start < total:
            file.seek(start)
            size = int.from_bytes(file.read(_HEAD)[:8], "little")
            end = start + _HEAD + size + _TAIL
            if end > total:
                raise UserError(f"{path}: cut short, or not a TFRecord file, in the record at byte {start:,}")
            spans.append((start + _HEAD, size))
            start = end
    if len(spans) != expected:
        raise UserError(
            f"{path} has {len(spans):,} records, and dataset_info.json says {expected:,}: copy the file again, or "
            "prepare the dataset again"
        )
    return np.array(spans, np.int64).reshape(-1, 2)


@dataclasses.dataclass(repr=False, unsafe_hash=True)
class TfRecordDataSource(base.BaseDataSource):
    """The decoded examples of a split, as ``builder.as_data_source`` gives them for ArrayRecord."""

    def __post_init__(self) -> None:
        split: splits.SplitInfo = self.dataset_info.splits[self.split]
        self.data_source = TfRecords([os.fspath(path) for path in split.filepaths], split.shard_lengths)
