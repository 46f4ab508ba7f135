"""Rows of Arrow batches, shared by ``parquet:`` and ``hf:``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from naturel_jax.data.items.records import BadRecord, Row, Span

_STARTS = {"binary": np.int32, "large_binary": np.int64}  # type -> dtype of where its values start


class _BatchRow(Mapping[str, Any]):
    """Row ``n`` of ``batch``; values are converted on use, so unused columns cost nothing.

    ``names``: of its columns, which Arrow would copy for each question. ``within``: the file that the batch is mapped
    from; bytes are then returned as parts of it.
    """

    def __init__(self, batch: pa.RecordBatch, names: Mapping[str, None], n: int, within: pa.Buffer | None):
        self._batch, self._names, self._n, self._within = batch, names, n, within

    def __getitem__(self, name: str) -> Any:
        try:
            return self._convert(self._batch.column(name))
        except UnicodeDecodeError as error:  # Arrow trusts the strings in a file
            raise BadRecord(f"{name} is not UTF-8 ({error.reason})") from error
        except (OverflowError, pa.ArrowInvalid) as error:  # a date that Python does not have
            raise BadRecord(f"{name} has no value in Python ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _convert(self, column: pa.Array) -> Any:
        if pa.types.is_struct(column.type) and not column.slice(self._n, 1).null_count:
            return {field.name: self._convert(column.field(field.name)) for field in column.type}
        if span := self._span(column):
            return span
        return column[self._n].as_py()

    def _span(self, column: pa.Array) -> Span | None:
        """Where the bytes are in the file; None if it does not hold them as they are, or there are none."""
        dtype = _STARTS.get(str(column.type))
        if self._within is None or dtype is None or column.slice(self._n, 1).null_count:
            return None
        _, starts, data = column.buffers()
        first = column.offset + self._n
        start, stop = np.frombuffer(starts, dtype)[first : first + 2].tolist()
        offset = data.address - self._within.address
        return Span(offset + start, stop - start) if 0 <= offset < self._within.size else None


def rows(batches: Iterable[pa.RecordBatch], within: pa.Buffer | None = None) -> Iterator[Row]:
    """The rows of ``batches``, each valid as long as its batch. Raises pyarrow's errors for damaged ones."""
    for batch in batches:
        names = dict.fromkeys(batch.schema.names)
        for n in range(batch.num_rows):
            yield _BatchRow(batch, names, n, within)
