"""Identifies the run in a workdir: the files that describe it, and whether a config may continue it.

``config.json`` holds the config and the versions it started with; ``data.json`` identifies its tables of records;
``trained_on/`` has the images that it trains on; ``scores.json`` has the scores of a finished run.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint, checkpoint_meta, manifest
from naturel_jax.checkpoints.restore import read
from naturel_jax.config import Config, own_benchmarks, versions
from naturel_jax.config.settings import fixed
from naturel_jax.data.random import draws
from naturel_jax.data.seen import trained_on
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.devices import preemption
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.results import LeftOut
from tfds_naturel.common.errors import UserError

Scores = dict[str, float]


@contextlib.contextmanager
def owned(folder: epath.Path, config: Config) -> Iterator[None]:
    """Holds a lease on the folder for this run (the first process holds it for all), and records the config in it.
    Raises UserError if another run holds it, or has started in it."""
    if jax.process_index() > 0:
        yield
        return
    with storage.lease(folder):
        if not refuse_another(folder, config):
            write_config(folder, config)
        yield


def refuse_another(folder: epath.Path, config: Config) -> bool:
    """Whether a run has started in the folder. Raises UserError if it was another run."""
    path = folder / "config.json"
    if "config.json" not in storage.names(folder):
        return False
    saved = storage.read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise UserError(f"{path}: not the config of a run; move it away, or use another --workdir")
    check_same_run(folder, saved["config"], config)
    return True


def finished_scores(folder: epath.Path, config: Config) -> Scores | None:
    """The scores of a run that finished with this duration and these benchmarks, from the same files and fields, else
    None. Raises UserError if the folder belongs to another run."""
    refuse_another(folder, config)
    path = folder / "scores.json"
    if "scores.json" not in storage.names(folder):
        return None
    saved = storage.read_json(path)
    try:
        requested, read_from = _requested(config), _read_from(config)
        scores, saved_config = saved["scores"], saved["config"]
        same = requested.items() <= saved.items() and _read_from(versions.from_json(saved_config)) == read_from
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error
    if not same:
        return None
    check_same_run(folder, saved_config, config)
    return scores


def read_intervals(folder: epath.Path) -> Intervals:
    """The confidence intervals of the scores of a finished run; {} for runs of versions that did not write them."""
    path = folder / "scores.json"
    try:
        intervals = storage.read_json(path).get("intervals", {})
        return {str(metric): (float(low), float(high)) for metric, (low, high) in intervals.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error


def read_left_out(folder: epath.Path, model: str) -> list[LeftOut]:
    """What the scores of the finished run ``model`` leave out; runs of versions before this was noted do not say."""
    path = folder / "scores.json"
    saved = storage.read_json(path)
    try:
        noted = []
        for name in map(own_benchmarks.name_of, saved["benchmarks"]):
            row = saved.get("found", {}).get(name)
            found = None if row is None else {way: int(n) for way, n in row.items() if way != "items"}
            items = int(row["items"]) if row else 0
            noted.append(LeftOut(model, name, items, int(saved.get("left_out", {}).get(name, 0)), found))
        return noted
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error


def read_text_only(folder: epath.Path) -> dict[str, float]:
    """What n-grams score on the benchmarks of a finished run; {} for those of versions before this was noted."""
    path = folder / "scores.json"
    try:
        return {name: float(score) for name, score in storage.read_json(path).get("text_only", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error


def write_scores(
    folder: epath.Path, config: Config, scores: Scores, intervals: Intervals, notes: Mapping[str, object]
) -> None:
    """Marks the run as finished. ``notes``, of its ``Evaluator``: ``left_out``, and what ``found`` and ``text_only``
    return."""
    saved = {**_requested(config), "config": versions.to_json(config), "scores": scores}
    storage.write(folder / "scores.json", json.dumps(saved | {"intervals": intervals, **notes}, indent=1))


def write_config(folder: epath.Path, config: Config) -> None:
    """Records the config and the versions of the libraries in the folder, for people to read."""
    record = {"config": versions.to_json(config), "versions": checkpoint_meta.versions()}
    storage.write(folder / "config.json", json.dumps(record, indent=1))


def check_same_run(folder: epath.Path, saved: dict[str, Any], config: Config) -> None:
    """Raises UserError if ``config`` differs from the saved one in a field that must not change within a run."""
    before, now = (_as_json(fixed(c)) for c in (versions.from_json(saved), config))
    changed = [
        f"config.{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with another config: {'; '.join(changed)}. Use another --workdir, or the same config"
        )


def check_streams(folder: epath.Path, meta: dict[str, Any]) -> None:
    """Raises UserError if the run of a checkpoint draws its batches from other random streams than this code."""
    if (found := meta.get("streams", 1)) != draws.VERSION:
        raise UserError(
            f"{folder} holds a run that drew its batches from version {found} of the random streams; this naturel_jax "
            f"has version {draws.VERSION}, which would not draw the same. Continue it with the naturel_jax that "
            f"began it, or start a new run in another --workdir (config.init = 'run:{folder}' begins with its "
            "parameters). It can be evaluated and exported as before"
        )


def saved_choices(folder: epath.Path) -> dict[str, str]:
    """What ``config.compute.remat`` ("remat") and ``config.objective.exchange`` ("exchange") were, or became, in the
    newest intact checkpoint of the folder; {} without one."""
    for step in reversed(checkpoint.saved_steps(folder)):
        try:
            meta = read(checkpoint.directory(folder) / str(step), meta=ocp.args.JsonRestore())["meta"]
        except manifest.Damaged:  # set aside when the run is restored
            continue
        before = versions.from_json(meta["config"])
        remat = before.compute.remat if before.compute.remat != "auto" else "none"  # as it was before there was "auto"
        return {"remat": meta.get("remat", remat), "exchange": meta.get("exchange", before.objective.exchange)}
    return {}


def check_same_data(folder: epath.Path, contents: dict[str, dict[str, Any]]) -> None:
    """Records the contents of the data in the folder. Raises UserError if the run there, which has a checkpoint, or
    another process has other contents."""
    if not contents:
        return
    path = folder / "data.json"
    if jax.process_index() == 0 and not ("data.json" in storage.names(folder) and checkpoint.saved_steps(folder)):
        storage.write(path, json.dumps(contents, indent=1))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("data.json")
    saved = storage.read_json(path)
    for name, content in contents.items():
        if content != saved.get(name):
            raise UserError(
                f"config.data.mixture.{name} is {content}, but the run in {folder} trains on {saved.get(name)}; "
                "restore the data and its list of bad records, or use another --workdir"
            )


def record_trained_on(folder: epath.Path, find: Callable[[], TrainedOn]) -> TrainedOn:
    """The images that the run trains on, from the first process's ``find``; once there is a checkpoint, as recorded in
    the folder. Raises UserError for a damaged record."""
    path = folder / trained_on.FOLDER

    def record() -> None:
        if not checkpoint.saved_steps(folder) or trained_on.load(path) is None:
            find().save(path)

    preemption.on_first_process(record)
    recorded = trained_on.load(path)
    if recorded is None:
        raise UserError(f"{path} is missing on this process; all processes need the same --workdir")
    return recorded


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(fields))  # tuples become lists


def _read_from(config: Config) -> tuple[Any, ...]:
    """What decides what a benchmark is, besides its name."""
    return config.eval.benchmarks_dir, config.eval.naturel, config.eval.fields


def _requested(config: Config) -> dict[str, Any]:
    return {"duration": config.duration, "benchmarks": list(config.eval.benchmarks)}
