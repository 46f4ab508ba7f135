"""Which run a workdir holds: the files that say so, and whether a config may continue it.

``config.json`` has the config and the versions it started with; ``scores.json`` the scores of a finished run.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from naturel_jax import checkpoint, config_versions, storage
from naturel_jax.config import Config
from naturel_jax.settings import fixed
from tfds_naturel.errors import UserError

Scores = dict[str, float]


@contextlib.contextmanager
def owned(folder: epath.Path) -> Iterator[Callable[[], None]]:
    """Holds the folder for this run (of several processes, the first one holds it for all), and yields a check that it
    still does. Raises UserError when another run holds it."""
    if jax.process_index() == 0:
        with storage.lease(folder) as held:
            yield held.check
    else:
        yield lambda: None


def finished_scores(folder: epath.Path, config: Config) -> Scores | None:
    """The scores of a run that has finished with this duration and these benchmarks. Raises UserError for those of
    another run."""
    path = folder / "scores.json"
    if not path.exists():
        return None
    saved = storage.read_json(path)
    try:
        requested, scores, saved_config = _requested(config), saved["scores"], saved["config"]
        same = requested.items() <= saved.items()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error!r}); move it away to evaluate again") from error
    if not same:
        return None
    refuse_another(folder, saved_config, config)
    return scores


def write_scores(folder: epath.Path, config: Config, scores: Scores) -> None:
    """Marks the run as finished."""
    saved = {**_requested(config), "config": config_versions.to_json(config), "scores": scores}
    storage.write(folder / "scores.json", json.dumps(saved, indent=1))


def write_config(folder: epath.Path, config: Config) -> None:
    """Leaves the config and the versions of the libraries in the folder, for people."""
    about = {"config": config_versions.to_json(config), "versions": checkpoint.versions()}
    storage.write(folder / "config.json", json.dumps(about, indent=1))


def refuse_another(folder: epath.Path, saved: dict[str, Any], config: Config) -> None:
    """Raises UserError when ``config`` differs from the saved one in a field that a continuation must not change."""
    before, now = (_as_json(fixed(c)) for c in (config_versions.from_json(saved), config))
    changed = [
        f"config.{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with another config: {'; '.join(changed)}. Use another --workdir, or the same config"
        )


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(fields))  # tuples become lists


def _requested(config: Config) -> dict[str, Any]:
    return {"duration": config.duration, "benchmarks": list(config.eval.benchmarks)}
