"""Rows of different lengths in two arrays, and operations on all rows at once. Shape letters: B rows, K values
chosen from each."""

import dataclasses
from array import array
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Row n is ``values[starts[n] : starts[n + 1]]``."""

    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[Iterable[int]]) -> "Ragged":
        """The given rows of integers, stored as int32."""
        starts, values = array("q", [0]), array("i")
        for row in rows:
            values.extend(row)
            starts.append(len(values))
        return cls(np.array(starts, np.int64), np.array(values, np.int32))

    @classmethod
    def from_lengths(cls, length_B: np.ndarray, values: np.ndarray) -> "Ragged":
        """Rows of these lengths, one after another."""
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(length_B, dtype=np.int64)]), values)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, n: int) -> np.ndarray:
        return self.values[self.starts[n] : self.starts[n + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """The length of each row."""
        return np.diff(self.starts)

    @property
    def widest(self) -> int:
        """Length of the longest row."""
        return int(self.lengths.max(initial=0))

    @property
    def rows(self) -> np.ndarray:
        """The row number of each value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, row_B: np.ndarray) -> "Ragged":
        """The rows with these numbers."""
        span = spans(self.starts[row_B], self.starts[row_B + 1])
        return Ragged(span.starts, self.values[span.values])

    def keep(self, kept: np.ndarray) -> "Ragged":
        """The rows, each with only the values for which ``kept`` is true."""
        return Ragged.from_lengths(np.bincount(self.rows[kept], minlength=len(self)), self.values[kept])

    def choose(self, column_BK: np.ndarray) -> "Ragged":
        """The values at these columns of each row."""
        chosen = self.values[self.starts[:-1, None] + column_BK]
        return Ragged(np.arange(len(self) + 1) * column_BK.shape[1], chosen.ravel())

    def padded(self, width: int, fill: int) -> np.ndarray:
        """int32 [B, max(width, 1)], with ``fill`` after each row's values."""
        out = np.full((len(self), max(width, 1)), fill, np.int32)
        out[np.arange(out.shape[1]) < self.lengths[:, None]] = self.values
        return out


def spans(start_B: np.ndarray, stop_B: np.ndarray) -> Ragged:
    """Row b has the numbers from ``start`` to ``stop - 1``."""
    start_B = np.asarray(start_B, np.int64)
    length_B = stop_B - start_B
    out = Ragged.from_lengths(length_B, np.arange(length_B.sum()))
    return Ragged(out.starts, out.values + np.repeat(start_B - out.starts[:-1], length_B))
