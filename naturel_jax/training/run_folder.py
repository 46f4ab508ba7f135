"""Identifies the run in a workdir: the files that describe it, and whether a config may continue it.

``config.json`` holds the config and the versions it started with, and when it became longer (``ready.py``);
``data.json`` identifies its training data; ``trained_on/`` has the images that it trains on; ``scores.json`` has
the scores of a finished run.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint, checkpoint_meta, finished, manifest, recorded
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.checkpoints.restore import read
from naturel_jax.config import Config, versions
from naturel_jax.config.settings import fixed
from naturel_jax.data.random import draws
from naturel_jax.data.seen import trained_on
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices import machine, preemption
from naturel_jax.evaluators import examples, results
from naturel_jax.evaluators.examples import Example
from naturel_jax.evaluators.results import LeftOut
from naturel_jax.report import files
from tfds_naturel.common.errors import UserError

# Files of a run that would replace somebody else's of the same names.
_REPLACED = (recorded.FILE, "data.json", "processor.json", "first_batch.png", *files.NAMES)


@contextlib.contextmanager
def leased(folder: epath.Path, config: Config) -> Iterator[None]:
    """Holds a lease on the folder for this run (the first process holds it for all), and records the config in it.
    Raises UserError if another run holds it, or has taken a step in it."""
    with contextlib.ExitStack() as stack:

        def take() -> None:
            stack.enter_context(storage.lease(folder))
            if not has_started(folder, config):
                _begin(folder, config)

        preemption.on_first_process(take)
        yield


def _begin(folder: epath.Path, config: Config) -> None:
    """Records the config in a folder in which no run has taken a step. What a start with another config has left, its
    tokenizer and the scores of what it would have started from, is removed."""
    path = folder / "config.json"
    if storage.exists(path) and storage.read_json(path)["config"] != _as_json(versions.to_json(config)):
        for name in ("processor.json", recorded.FILE):
            storage.delete(folder / name)
    write_config(folder, config)


def has_started(folder: epath.Path, config: Config) -> bool:
    """Whether this run has taken a step in the folder. Raises UserError if another one has, or if the folder has files
    of somebody else's that a run would replace. A run that failed before its first step binds nothing: its config may
    have been the mistake."""
    path, names = folder / "config.json", storage.names(folder)
    if "config.json" not in names:  # which a run writes first
        saves = checkpoint.directory(folder)
        theirs = [name for name in (*_REPLACED, saves.name) if name in names]
        ours = any(manifest.NAME in storage.names(saves / str(step)) for step in storage.numbered(saves))
        if theirs and not ours and finished.FILE not in names:
            raise files.not_ours(folder, "config.json of a run", theirs, "a run", "--workdir")
        return False
    saved = storage.read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise UserError(f"{path}: not the config of a run; move it away, or use another --workdir")
    logged = (line["step"] for line in storage.read_json_lines(folder / recorded.FILE))
    if not (finished.FILE in names or checkpoint.saved_steps(folder) or any(step > 0 for step in logged)):
        return False
    check_same_run(folder, saved["config"], config)
    return True


def read_finished(folder: epath.Path, config: Config) -> Finished | None:
    """The results of a run that finished with this duration and these benchmarks, from the same files and fields, and
    with the curve that is asked for; None if there is none. Raises UserError if the folder belongs to another run."""
    has_started(folder, config)
    record = finished.read(folder)
    if record is None:
        return None
    request = _request(config)
    if any(record.request[field] != request[field] for field in ("duration", "benchmarks")):
        return None
    saved = record.request["config"]
    if not isinstance(saved, dict):
        raise UserError(f"{folder / finished.FILE}: has no config; move it away to evaluate again")
    before = versions.from_json(saved)
    if _benchmark_inputs(before) != _benchmark_inputs(config):
        return None
    if config.eval.interpolate and not (
        _curve(before) == _curve(config) and storage.exists(folder / recorded.INTERPOLATED)
    ):
        return None
    check_same_run(folder, saved, config)
    return record.finished


def write_finished(folder: epath.Path, config: Config, found: Finished) -> None:
    """Marks the run as finished."""
    finished.write(folder, finished.Saved(found, _request(config)))


def results_of(folder: epath.Path, config: Config) -> tuple[epath.Path, str, str]:
    """Where the last evaluation of the run writes its results, item by item (``evaluators/results.py``): the folder,
    the name of the model, and a digest of the config that made it."""
    identity = hashlib.blake2b(json.dumps(versions.to_json(config), sort_keys=True).encode(), digest_size=16)
    return folder / results.FOLDER, config.name, identity.hexdigest()


def mistakes(out: epath.Path, model: str) -> list[Example]:
    """The examples in the results of ``model`` that it gets wrong; of several processes, only the first has any."""
    found = examples.load(out / results.file_name(model)) if jax.process_index() == 0 else []
    return [example for example in found if not example.right]


def left_out(found: Finished, model: str) -> list[LeftOut]:
    """What the scores of the run ``model`` leave out of each of its benchmarks."""
    rows = []
    for name, counts in found.found.items():
        ways = {way: n for way, n in counts.items() if way != "items"}
        rows.append(LeftOut(model, name, counts["items"], found.left_out.get(name, 0), ways))
    return rows


def write_config(folder: epath.Path, config: Config) -> None:
    """Records the config, the versions of the libraries, the code and the machine in the folder, for people and reports
    to read."""
    made_by = {**machine.describe(), "accelerators": machine.accelerators()}
    record = {"config": versions.to_json(config), "versions": checkpoint_meta.versions(), "made_by": made_by}
    storage.write_json(folder / "config.json", record)


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


def check_meta(
    folder: epath.Path,
    meta: dict[str, Any],
    config: Config,
    adapter: dict[str, Any] | None,
    digest: str,
    processor: Processor,
) -> None:
    """Raises UserError for a checkpoint of another run, one whose adapters belong to another base, and one that started
    from other parameters or another processor than ``config.init`` has now. ``adapter``, ``digest``, ``processor``:
    those of ``Start``."""
    check_same_run(folder, meta["config"], config)
    saved = meta.get("adapter")
    if adapter and saved and adapter["digest"] != saved["digest"]:
        raise UserError(
            f"config.init {config.init!r}: its parameters have the digest {adapter['digest']}, but the adapters in "
            f"{folder} belong to {saved['base']!r} with {saved['digest']}: restore that model, or use another --workdir"
        )
    began = meta["init_digest"]
    fix = "restore the model that it started from, or use another --workdir"
    if digest and began and digest != began:
        raise UserError(
            f"config.init {config.init!r}: its parameters have the digest {digest}, but the run in {folder} started "
            f"from others with {began}: {fix}"
        )
    before, now = meta["processor"], _as_json(processor.to_dict())
    if changed := [name for name in before if name in now and before[name] != now[name]]:
        name = changed[0]
        raise UserError(
            f"config.init {config.init!r}: its processor has {name} = {now[name]!r:.80}, but the run in {folder} "
            f"started with {before[name]!r:.80}: {fix}"
        )


def check_streams(folder: epath.Path, meta: dict[str, Any]) -> None:
    """Raises UserError if the run of a checkpoint draws its batches from other random streams than this code."""
    if (found := meta["streams"]) != draws.VERSION:
        raise UserError(
            f"{folder} holds a run that drew its batches from version {found} of the random streams; this naturel_jax "
            f"has version {draws.VERSION}, which would not draw the same. Continue it with the naturel_jax that "
            f"began it, or start a new run in another --workdir (config.init = 'run:{folder}' begins with its "
            "parameters). It can be evaluated and exported as before"
        )


def newest_checkpoint(folder: epath.Path) -> tuple[int, dict[str, Any]] | None:
    """(step, meta) of the newest intact checkpoint of the folder; None without one."""
    for step in reversed(checkpoint.saved_steps(folder)):
        try:
            return step, read(checkpoint.directory(folder) / str(step), meta=ocp.args.JsonRestore())["meta"]
        except manifest.Damaged:  # set aside when the run is restored
            continue
    return None


def saved_choices(folder: epath.Path) -> dict[str, str]:
    """What ``config.compute.remat`` ("remat") and ``config.objective.exchange`` ("exchange") were, or became, in the
    newest intact checkpoint of the folder; {} without one."""
    if (newest := newest_checkpoint(folder)) is None:
        return {}
    return {name: newest[1][name] for name in ("remat", "exchange")}


def check_same_data(folder: epath.Path, contents: dict[str, dict[str, Any]]) -> None:
    """Records the contents of the data in the folder. Raises UserError if they differ from those of the run there, once
    it has a checkpoint, or of another process."""
    if not contents:
        return
    path = folder / "data.json"

    def check(saved: dict[str, dict[str, Any]]) -> None:
        for name, content in contents.items():
            before = {key: value for key, value in saved.get(name, {}).items() if value != content.get(key)}
            if before:
                now = {key: content.get(key) for key in before}
                fix = "restore the records and their list of bad ones"
                if "left_out" in before:
                    fix += " (if the check has written it since: remove the file that it names)"
                raise UserError(
                    f"config.data.mixture.{name} is {now}, but the run in {folder} trains on {before}; {fix}, the "
                    "version of a prepared dataset or the file of hard images, or use another --workdir"
                )

    def record() -> None:
        begun = "data.json" in storage.names(folder) and checkpoint.saved_steps(folder)
        saved = storage.read_json(path) if begun else {}
        check(saved)
        if saved != (known := saved | contents):
            storage.write_json(path, known)

    preemption.on_first_process(record)
    check(storage.read_json(path))


def record_trained_on(
    folder: epath.Path, find: Callable[[], TrainedOn], check: Callable[[TrainedOn], None]
) -> TrainedOn:
    """The images that the run trains on, from the first process's ``find``; once there is a checkpoint, as recorded in
    the folder, which ``check`` may refuse. Raises UserError for a damaged record."""
    path = folder / trained_on.FOLDER

    def record() -> None:
        found = trained_on.load(path) if checkpoint.saved_steps(folder) else None
        if found is None:
            find().save(path)
        else:
            check(found)

    preemption.on_first_process(record)
    recorded = trained_on.load(path)
    if recorded is None:
        raise UserError(f"{path} is missing on this process; all processes need the same --workdir")
    return recorded


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(fields))  # tuples become lists


def _benchmark_inputs(config: Config) -> tuple[Any, ...]:
    """What determines a benchmark, besides its name."""
    return config.eval.benchmarks_dir, config.eval.naturel, config.eval.fields


def _curve(config: Config) -> tuple[Any, ...]:
    return config.eval.interpolate, config.eval.interpolate_by


def _request(config: Config) -> dict[str, Any]:
    asked = {"duration": config.duration, "benchmarks": list(config.eval.benchmarks)}
    return {**asked, "config": versions.to_json(config)}
