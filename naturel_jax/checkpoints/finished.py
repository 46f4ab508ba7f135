"""The results of a finished run: ``scores.json`` in its folder, which only this module reads and writes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from naturel_jax import storage
from tfds_naturel.common.errors import UserError

FILE = "scores.json"


class Finished(NamedTuple):
    """The final scores of a run, and what they leave out.

    scores, intervals: metric -> score, and the bounds of its 95% confidence interval; left_out: benchmark -> number of
    items whose images cannot be read; found: benchmark -> number of its items that are scored, and how those whose
    images the run trains on were found (``Evaluator.found``); text_only: metric -> what n-grams score.
    """

    scores: Mapping[str, float]
    intervals: dict[str, tuple[float, float]]
    left_out: Mapping[str, int]
    found: Mapping[str, Mapping[str, int]]
    text_only: Mapping[str, float]


class Saved(NamedTuple):
    """``scores.json``. ``request``: what the run was asked for, its "config", "duration" and "benchmarks"."""

    finished: Finished
    request: Mapping[str, Any]


def write(folder: epath.Path, record: Saved) -> None:
    """Marks the run in ``folder`` as finished."""
    storage.write_json(folder / FILE, {**record.request, **record.finished._asdict()})


def read(folder: epath.Path) -> Saved | None:
    """None if the run in ``folder`` is not finished. Raises UserError for a damaged file."""
    path = folder / FILE
    if not storage.exists(path):
        return None
    saved = storage.read_json(path)
    try:
        finished = Finished(
            {str(metric): float(score) for metric, score in saved["scores"].items()},
            {str(metric): (float(low), float(high)) for metric, (low, high) in saved["intervals"].items()},
            {str(name): int(count) for name, count in saved["left_out"].items()},
            {str(name): _counts(counts) for name, counts in saved["found"].items()},
            {str(metric): float(score) for metric, score in saved["text_only"].items()},
        )
        return Saved(finished, {key: saved[key] for key in ("config", "duration", "benchmarks")})
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error


def _counts(saved: Mapping[str, Any]) -> dict[str, int]:
    counts = {str(way): int(count) for way, count in saved.items()}
    return {"items": counts["items"]} | counts
