"""Rows of Arrow batches, shared by ``parquet:`` and ``hf:``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from naturel_jax.data.records import Row, Span


class _BatchRow(Mapping[str, Any]):
    """Row ``n`` of ``batch``; values are converted when they are used, so unused columns cost nothing.

    ``within``: the file that the batch is mapped from; bytes are then parts of it.
    """

    def __init__(self, batch: pa.RecordBatch, n: int, within: pa.Buffer | None):
        self._batch, self._n, self._within = batch, n, within

    def __getitem__(self, name: str) -> Any:
        return self._convert(self._batch.column(name)[self._n])

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch.schema.names)

    def __len__(self) -> int:
        return self._batch.num_columns

    def __contains__(self, name: object) -> bool:
        return name in self._batch.schema.names

    def _convert(self, value: pa.Scalar) -> Any:
        if isinstance(value, pa.StructScalar) and value.is_valid:
            return {name: self._convert(value[name]) for name in value}
        if self._within is not None and isinstance(value, pa.BinaryScalar) and value.is_valid:
            data = value.as_buffer()
            if 0 <= (offset := data.address - self._within.address) < self._within.size:
                return Span(offset, data.size)
        return value.as_py()


def rows(batches: Iterable[pa.RecordBatch], within: pa.Buffer | None = None) -> Iterator[Row]:
    """The rows of ``batches``, each valid as long as its batch."""
    for batch in batches:
        for n in range(batch.num_rows):
            yield _BatchRow(batch, n, within)
