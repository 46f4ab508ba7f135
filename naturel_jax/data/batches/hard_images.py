"""Mined hard images: read from a file, and which of them show what an image's false caption claims (TripletCLIP,
ConCLIP).

Shape letters: B images, C candidates of all of them, N items, R rows of a file, V hard images that these list.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from naturel_jax import storage
from naturel_jax.data.batches.recipes import Sampled
from naturel_jax.data.items.items import Items
from naturel_jax.data.items.ragged import Ragged, spans
from naturel_jax.storage import once
from tfds_naturel.common.arrow_files import parquet_batches
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow

_ROWS = 1 << 15  # that are read at a time
_BATCHES = 16  # of so many rows that are looked up together: each time, a table of all names is made
_COLUMNS = ("image_id", "negatives")
_AGAIN = "mine again"


def read(path: os.PathLike[str], image_ids: Sequence[str]) -> Ragged:
    """The numbers of the hard images of each item, in the file's order, each once: a Parquet file as ``mining.save``
    writes it, with any number of rows for an image; items of one image have the same. Only numbers of items are kept in
    memory, three times at most.

    Raises UserError for an image that is not in ``image_ids``, since it was mined from another split, and for a file
    that does not have the checksum in the description that naturel-mine writes beside it.
    """
    _check(Path(path))
    names = pa.array(image_ids, pa.string())
    item_R, by_row = _rows(path, names)
    order_R = np.argsort(item_R, kind="stable")
    item_R = item_R[order_R]
    same_N = pc.index_in(names, names).to_numpy()  # the first item of each one's image
    lengths, values = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for start in range(0, len(image_ids), _ROWS):
        stop = min(start + _ROWS, len(image_ids))
        same = same_N[start:stop]
        rows = spans(np.searchsorted(item_R, same), np.searchsorted(item_R, same, side="right"))
        some = by_row.take(order_R[rows.values])
        item_V = start + rows.rows[some.rows].astype(np.int64)
        once_each = np.sort(np.unique(item_V * len(image_ids) + some.values, return_index=True)[1])
        lengths.append(np.bincount(item_V[once_each] - start, minlength=stop - start))
        values.append(some.values[once_each])
    return Ragged.from_lengths(np.concatenate(lengths), np.concatenate(values))


def _rows(path: os.PathLike[str], names: pa.Array) -> tuple[np.ndarray, Ragged]:
    """The number [R] of the image of each row of the file, and those of its hard images."""
    item_R, length_R, hard_V = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    with reading_arrow(path, _AGAIN):
        rows = (_row_arrays(path, batch) for batch in parquet_batches(path, _ROWS, _COLUMNS, kept=True))
        while some := list(itertools.islice(rows, _BATCHES)):
            images, lengths, negatives = map(pa.chunked_array, zip(*some, strict=True))
            item_R.append(_numbers(path, images, names))
            length_R.append(lengths.to_numpy())
            hard_V.append(_numbers(path, negatives, names))
    return np.concatenate(item_R), Ragged.from_lengths(np.concatenate(length_R), np.concatenate(hard_V))


def _check(path: Path) -> None:
    beside = path.with_name(f"{path.name}.json")
    if beside.exists() and once.checksum(path) != storage.read_json(epath.Path(beside)).get("xxh3"):
        raise UserError(f"{path}: damaged, or not the file that {beside} describes; {_AGAIN}")


def _row_arrays(path: object, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The image of each row, the number of its negatives, and the negatives of all."""
    if missing := [name for name in _COLUMNS if name not in batch.schema.names]:
        raise UserError(f"{path}: has no column {missing[0]}; {_AGAIN}")
    images, negatives = map(batch.column, _COLUMNS)
    if not pa.types.is_list(negatives.type) and not pa.types.is_large_list(negatives.type):
        raise UserError(f"{path}: negatives are {negatives.type}, expected lists of image ids; {_AGAIN}")
    lengths = pc.fill_null(pc.list_value_length(negatives), 0).cast(pa.int64())
    return images.cast(pa.string()), lengths, pc.list_flatten(negatives).cast(pa.string())


def _numbers(path: object, column: pa.ChunkedArray, names: pa.Array) -> np.ndarray:
    """int32, the place of each string of ``column`` in ``names``."""
    found = pc.index_in(column, names)
    if found.null_count:
        unknown = column.filter(found.is_null())[0].as_py()
        raise UserError(f"{path}: image {unknown!r:.80} is not in this dataset; mine this split again")
    numbers: np.ndarray = found.to_numpy()
    return numbers


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
