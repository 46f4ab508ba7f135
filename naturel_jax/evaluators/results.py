"""The files that an evaluation writes: ``<out>/<model>/<benchmark>/scores.json`` and ``items.parquet``. Reports read
only these, never a model.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Item, Metric
from naturel_jax.evaluators import examples, fingerprints
from naturel_jax.evaluators.examples import Example
from naturel_jax.storage import once
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.arrow_files import parquet_batches, parquet_schema
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json, reading_arrow

VERSION = 5  # of both files
MAX_CAPTIONS = 64  # items with more (retrieval, classification) are saved without captions and cosines
_MAX_NAME = 100  # characters of a model's name that a file name keeps
FOLDER = "results"  # in a run's folder: those of its last evaluation
_ROWS = 1024  # of items.parquet, in memory at a time before they are Python's
OUTCOME = "outcome/"  # prefix of the columns of items.parquet that hold outcomes

PathT = TypeVar("PathT", bound=Path)


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of one model on one benchmark.

    ``scores``: metric -> {value, count, low, high}; low and high bound the 95% confidence interval. ``published``
    is the official number of items, ``unreadable`` how many of the listed items had an image that could not be
    read, ``blind`` baseline -> metric -> value (see ``blind.baselines``), ``metrics`` what each score is the mean of,
    so that models can be compared item by item. ``left_out``: how many further items are not scored, since the model
    was trained on their images; ``with_trained_on``: metric -> value with them; ``found``: what
    ``held_out.count_overlaps`` says about them (empty: the model has no record; None: not counted). ``ties``: how many
    items have a right and a wrong answer of the same cosine (see ``rules``); ``chance``: metric -> the expected score
    of a guess. ``shortcuts``: the parts of ``shortcuts.parts`` -> metric -> its score on the items of that part, as in
    ``scores`` (None: not asked for; empty: it has no parts). ``rows``: XXH3 of ``items.parquet``, of which Parquet
    checks all but the footer and headers ("" until it is written).
    """

    model: str
    benchmark: str
    fingerprint: str
    items: int
    published: int | None
    unreadable: int
    problems: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    blind: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    left_out: int = 0
    with_trained_on: Mapping[str, float] = dataclasses.field(default_factory=dict)
    found: Mapping[str, int] | None = None
    ties: int = 0
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shortcuts: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    rows: str = dataclasses.field(default="", compare=False)

    @property
    def incomplete(self) -> bool:
        """Whether the scores cover fewer items than the files list, or another number than was published."""
        other = self.published is not None and self.items != self.published
        return self.unreadable > 0 or self.left_out > 0 or other


class LeftOut(NamedTuple):
    """Items that a run's scores leave out of a benchmark; the fields are those of ``Result``."""

    model: str
    benchmark: str
    items: int
    left_out: int
    found: Mapping[str, int] | None


def write(folder: epath.Path, result: Result, rows: pa.Table, picked: Sequence[Example] = ()) -> None:
    """Writes both files, and the examples, to ``folder``, which this process alone writes to."""
    if not in_store(folder):
        folder.mkdir(parents=True, exist_ok=True)
    examples.write(folder, picked)  # first: with scores, an evaluation is finished
    parquet = io.BytesIO()
    pq.write_table(rows, parquet, compression="zstd", write_page_checksum=True)
    storage.write(folder / "items.parquet", parquet.getvalue())
    result = dataclasses.replace(result, rows=xxhash.xxh3_64_hexdigest(parquet.getvalue()))
    storage.write_json(folder / "scores.json", {"version": VERSION, **dataclasses.asdict(result)})


def table(items: Sequence[Item], matrices: Sequence[np.ndarray], outcomes: Mapping[str, np.ndarray]) -> pa.Table:
    """What ``items.parquet`` holds: a row per item, with a column per outcome."""
    small = [len(item.captions) <= MAX_CAPTIONS for item in items]
    digests = fingerprints.of_captions(items)
    columns = {
        "id": pa.array([item.id for item in items], pa.string()),
        "images": pa.array([[image.key for image in item.images] for item in items], pa.list_(pa.string())),
        "boxes": pa.array([[image.box for image in item.images] for item in items], pa.list_(pa.list_(pa.int32()))),
        "captions": pa.array(
            [
                [c if isinstance(c, str) else " / ".join(c) for c in item.captions] if keep else None
                for keep, item in zip(small, items, strict=True)
            ],
            pa.list_(pa.string()),
        ),
        "captions_hash": pa.array(
            [
                None if keep else int.from_bytes(digests[id(item.captions)][:8], "little", signed=True)
                for keep, item in zip(small, items, strict=True)
            ],
            pa.int64(),
        ),
        "cosines": pa.array(
            [m.ravel().tolist() if keep else None for keep, m in zip(small, matrices, strict=True)],
            pa.list_(pa.float32()),
        ),
        "tags": pa.array([json.dumps(dict(item.tags)) for item in items], pa.string()),
        "weight": pa.array([item.weight for item in items], pa.float32()),
    }
    return pa.table(columns | {OUTCOME + name: pa.array(values) for name, values in outcomes.items()})


def load(out: Path) -> list[Result]:
    """All results in ``out``, models in alphabetical order. Raises UserError for a file that is not a result."""
    return [_read(path) for path in sorted(out.glob("[!.]*/[!.]*/scores.json"))]


def _read(path: Path) -> Result:
    try:
        row = storage.unsealed(parse_json(storage.read(epath.Path(path))))
        check_version(path, row.pop("version"))
        metrics = {name: _metric(fields) for name, fields in row.pop("metrics").items()}
        result = Result(**(_checked(row) | {"problems": tuple(row["problems"]), "metrics": metrics}))
        if path.parent != folder_of(path.parents[2], result.model, result.benchmark):
            raise ValueError(f"those of {result.model!r:.80} on {result.benchmark!r:.80} belong into another folder")
        return result
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: not the scores of an evaluation ({error}); delete its folder and evaluate again"
        ) from error


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "benchmark", "fingerprint"), str),
    **dict.fromkeys(("items", "unreadable"), int),
    "published": (int, type(None)),
    "problems": list,
    **dict.fromkeys(("scores", "blind", "with_trained_on", "chance"), dict),
    **dict.fromkeys(("left_out", "ties"), int),
    **dict.fromkeys(("found", "shortcuts"), (dict, type(None))),
    "rows": str,
}
_FOUND = ("name", "bytes", "look", "read", "images")  # what is counted of overlaps


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """``row``. Raises TypeError, KeyError or ValueError for a field that is absent or of another type."""
    json.dumps(row, ensure_ascii=False).encode()
    for name, kind in _KINDS.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"{name} is {row[name]!r:.80}")
    every = [score for part in (row["scores"], *(row["shortcuts"] or {}).values()) for score in part.values()]
    if not all(math.isfinite(score["count"]) for score in every):
        raise TypeError("a count is not finite")
    values = [[score[key] for key in ("value", "count", "low", "high")] for score in every]
    further = (*row["blind"].values(), row["with_trained_on"], row["chance"])
    values += [list(baseline.values()) for baseline in further]
    if not all(isinstance(value, int | float) and not math.isinf(value) for group in values for value in group):
        raise TypeError("a score is not a number")
    found = row["found"] or {}
    if not all(isinstance(found.get(way), int) for way in (*_FOUND, *found) if found):
        raise TypeError(f"found is {row['found']!r:.80}")
    if not all(isinstance(problem, str) for problem in row["problems"]):
        raise TypeError("a problem is not a string")
    return row


def _metric(fields: dict[str, Any]) -> Metric:
    """A metric as saved. Raises TypeError or ValueError for anything else."""
    where = fields["where"]
    metric = Metric(**fields | {"where": where and tuple(where)})
    texts = (metric.name, metric.outcome, metric.macro or "", *(metric.where or ()))
    if not all(isinstance(text, str) for text in texts) or len(metric.where or "ab") != 2:
        raise TypeError(f"a metric is {fields!r:.80}")
    if not isinstance(metric.min_count, int) or not isinstance(metric.weighted, bool):
        raise TypeError(f"a metric is {fields!r:.80}")
    return metric


def check_version(path: epath.PathLike, version: Any) -> None:
    """Raises UserError for a file of another version than this package writes."""
    if version != VERSION:
        raise UserError(
            f"{path}: schema version {version!r:.80}, this naturel_jax reads {VERSION}: install a newer one, or delete "
            "the file and evaluate again"
        )


def load_items(out: Path, model: str, benchmark: str, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of ``items.parquet``, tags parsed, except for the columns ``without``. Raises FileNotFoundError saying
    what to run, UserError for another version, for columns that are missing, or for rows of another evaluation than the
    scores.
    """
    path = folder_of(out, model, benchmark) / "items.parquet"
    for file in (path, path.with_name("scores.json")):
        if not file.exists():
            raise FileNotFoundError(f"{file}: not found; evaluate {model!r} on {benchmark!r} first")
    _check_rows(path, f"evaluate {model!r} again")
    with reading_arrow(path, f"evaluate {model!r} again"):
        schema = parquet_schema(path)
        columns = [name for name in schema.names if name not in without]
        if missing := sorted(_TYPES.keys() - {*schema.names, *without}):
            raise UserError(
                f"{path}: has no column {', '.join(missing)}; expected {', '.join(_TYPES)}; evaluate {model!r} again"
            )
        if wrong := [field.name for field in schema if not _TYPES.get(field.name, _is_number)(field.type)]:
            kind = schema.field(wrong[0]).type
            raise UserError(f"{path}: {wrong[0]!r:.80} holds {kind!s:.80}; evaluate {model!r} again")
        batches = parquet_batches(path, _ROWS, columns, kept=True)
        rows = [row for batch in batches for row in _complete(path, batch).to_pylist()]
    try:
        return [row | {"tags": _tags(row["tags"])} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the items of an evaluation ({error!r:.80}); evaluate {model!r} again") from error


def _tags(text: str) -> dict[str, str | list[str]]:
    """The tags of an item as saved. Raises ValueError or TypeError for anything else."""
    tags = parse_json(text)
    values = list(tags.values()) if isinstance(tags, dict) else [None]
    if not all(isinstance(one, str) for value in values for one in (value if isinstance(value, list) else [value])):
        raise TypeError(f"tags are {text:.40}")
    return tags


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


# Column -> whether it may have a type; the others are outcomes.
_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    **dict.fromkeys(("id", "tags"), pa.types.is_string),
    **dict.fromkeys(("images", "captions"), pa.list_(pa.string()).equals),
    "boxes": pa.list_(pa.list_(pa.int32())).equals,
    "cosines": pa.list_(pa.float32()).equals,
    "captions_hash": pa.int64().equals,
    "weight": pa.float32().equals,
}
_NULLABLE = ("captions", "captions_hash", "cosines")


def _complete(path: Path, batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch``, of ``path``. Raises UserError for a value that is missing, and for an outcome that is infinite."""
    for name in _TYPES.keys() & set(batch.schema.names):
        column = batch.column(name)
        inner = column.flatten().null_count if pa.types.is_list(column.type) and name != "boxes" else 0
        if inner or (column.null_count and name not in _NULLABLE):
            raise UserError(f"{path}: {name} has no value in some rows; evaluate again")
    for name in batch.schema.names:
        if name.startswith(OUTCOME) and np.isinf(batch.column(name).to_numpy(zero_copy_only=False).astype(float)).any():
            raise UserError(f"{path}: {name:.80} is infinite in some rows; evaluate again")
    return batch


def finished(out: Path, model: str, benchmark: str, fingerprint: str) -> Result | None:
    """The result of (model, benchmark) if it has this fingerprint and every image could be read."""
    path = folder_of(out, model, benchmark) / "scores.json"
    result = _read(path) if path.exists() else None
    if not result or result.fingerprint != fingerprint or result.unreadable:
        return None
    try:
        _check_rows(path.with_name("items.parquet"), "evaluate again")
    except (FileNotFoundError, UserError):
        return None
    return result


def _check_rows(path: Path, fix: str) -> None:
    """Raises UserError for rows that are damaged, or of another evaluation than the scores beside them."""
    if once.checksum(path) != _read(path.with_name("scores.json")).rows:
        raise UserError(f"{path}: damaged, or its rows are not those that scores.json is about; {fix}")


def folder_of(out: PathT, model: str, benchmark: str) -> PathT:
    """The folder of a (model, benchmark) pair. Models whose names differ only in characters not allowed in file names
    get different folders.
    """
    return out / file_name(model) / file_name(benchmark)


def file_name(model: str) -> str:
    """A model's name in characters allowed in file names; a name that had to be changed gets a digest at its end."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", model).strip(".")[:_MAX_NAME] or "_"
    return slug if slug == model else f"{slug}-{hashlib.blake2b(model.encode(), digest_size=3).hexdigest()}"
