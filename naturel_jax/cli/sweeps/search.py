"""Random and Bayesian search with Optuna, which suggests the setting of each trial and says which runs to prune.

A trial's setting is a function of its number and of the trials that are finished when it begins; it is kept in
``<out>/trials``, and everything else is read from the folders of the runs, so a search continues after any
interruption, and several processes share one.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import sign
from naturel_jax.checkpoints import finished, recorded
from naturel_jax.cli.sweeps import runs as runs_lib
from naturel_jax.cli.sweeps.grids import Grid, Planned, Range, Setting, Values
from naturel_jax.cli.sweeps.runs import Pruned
from naturel_jax.devices.processes import Share
from naturel_jax.training.run import Watch
from tfds_naturel.common.errors import UserError

SAMPLERS = {"random": "RandomSampler", "bayes": "TPESampler"}  # names in optuna.samplers
META = "search.json"  # what is searched, written with the first trial
_AGAIN = "remove the file, and the trial is drawn again"
_DIGITS = 3  # significant ones of a number that is drawn


class Search(NamedTuple):
    """``method``: a key of ``SAMPLERS``; ``score``: the metric to optimize, the mean over a setting's seeds."""

    grid: Grid
    method: str
    trials: int
    score: str
    prune: bool

    @property
    def direction(self) -> str:
        """Optuna's name for it."""
        return "maximize" if sign(self.score) > 0 else "minimize"


def corners(grid: Grid) -> Iterator[Setting]:
    """Settings that together have every listed value and both ends of every range: what is allowed of them is allowed
    of every trial."""
    ends = {
        field: tuple(map(_text, values[:2], [values] * 2)) if isinstance(values, Range) else values
        for field, values in grid.values.items()
    }
    for row in itertools.zip_longest(*ends.values()):
        yield {field: ends[field][0] if value is None else value for field, value in zip(ends, row, strict=True)}


def check_same(search: Search, out: Path) -> None:
    """Raises UserError if ``out`` has trials of another search, or if Optuna is missing."""
    _optuna()
    if not storage.exists(path := epath.Path(out / META)):
        return
    wanted, saved = _identity(search), storage.read_json(path)
    if changed := [name for name, value in json.loads(json.dumps(wanted)).items() if saved.get(name) != value]:
        raise UserError(
            f"{path}: {changed[0]} was {saved.get(changed[0])}, is {wanted[changed[0]]}; use another --out for another "
            "search (--trials may change)"
        )


def _identity(search: Search) -> dict[str, Any]:
    """What must stay the same in a search."""
    grid = {"grid": dict(search.grid.values), "seeds": list(search.grid.seeds)}
    return {**grid, "search": search.method, "score": search.score}


def train(search: Search, out: Path, share: Share) -> None:
    """Trains this process's share of the trials. Raises Stopped."""
    (out / "trials").mkdir(parents=True, exist_ok=True)
    for number in range(share.index, search.trials, share.count):
        for planned in search.grid.runs(_suggest(search, out, number)):
            runs_lib.train(planned, out, _pruner(search, out, planned, number))
            if runs_lib.state(planned, out) != runs_lib.FINISHED:
                break  # the other seeds of a bad setting are not trained


def settings(search: Search, out: Path) -> list[Setting]:
    """The distinct settings of the trials that have begun."""
    found = _trials(search, out).values()
    return list({json.dumps(setting): setting for setting in found}.values())


def _trials(search: Search, out: Path) -> dict[int, Setting]:
    folder = epath.Path(out / "trials")
    paths = {n: folder / f"{n:04}.json" for n in range(search.trials)}
    there = set(storage.names(folder))
    return {number: _read(search, path) for number, path in paths.items() if path.name in there}


def _suggest(search: Search, out: Path, number: int) -> Setting:
    """The setting of a trial."""
    storage.create(epath.Path(out / META), storage.sealed(_identity(search), indent=1))
    check_same(search, out)  # another process may have begun another
    path = epath.Path(out / "trials" / f"{number:04}.json")
    if not storage.exists(path):
        optuna = _optuna()
        sampler = getattr(optuna.samplers, SAMPLERS[search.method])(seed=number)
        study = optuna.create_study(direction=search.direction, sampler=sampler)
        space = _space(search.grid)
        for setting in _trials(search, out).values():
            study.add_trials(_finished(search, out, setting, space))
        drawn = study.ask(space).params
        setting = {field: _text(drawn[field], values) for field, values in search.grid.values.items()}
        storage.create(path, storage.sealed(setting))
    return _read(search, path)


def _read(search: Search, path: epath.Path) -> Setting:
    """The setting of a trial that has begun. Raises UserError for one that this search does not draw: it would train
    with any config."""
    found, fields = storage.read_json(path), search.grid.values
    if found.keys() != fields.keys():
        raise UserError(f"{path}: {found!r:.200}; expected the fields {', '.join(fields)}; {_AGAIN}")
    for field, values in fields.items():
        if not _is_drawn(found[field], values):
            raise UserError(f"{path}: {field} is {found[field]!r:.80}, which this search does not draw; {_AGAIN}")
    return {field: found[field] for field in fields}


def _is_drawn(text: Any, values: Values) -> bool:
    if not isinstance(values, Range):
        return text in values
    try:
        return text == _text(float(text), values) and values.low <= float(text) <= values.high
    except (TypeError, ValueError, OverflowError):
        return False


def _finished(search: Search, out: Path, setting: Setting, space: Mapping[str, Any]) -> list[Any]:
    """A trial as Optuna takes it: [trial] if all its seeds are finished, or one is pruned; else []."""
    optuna, planned = _optuna(), search.grid.runs(setting)
    states = [runs_lib.state(run, out) for run in planned]
    fields: dict[str, Any] = {"params": {field: _number(setting[field], space[field]) for field in space}}
    pruned = [run for run, state in zip(planned, states, strict=True) if state.startswith("pruned")]
    if pruned:
        fields |= {"state": optuna.trial.TrialState.PRUNED, "intermediate_values": _history(search, out, pruned[0])}
    elif set(states) == {runs_lib.FINISHED}:
        records = [finished.read(epath.Path(out / run.key)) for run in planned]
        fields["value"] = float(np.mean([record.finished.scores[search.score] for record in records if record]))
    else:
        return []
    return [optuna.trial.create_trial(distributions=space, **fields)]


def _pruner(search: Search, out: Path, planned: Planned, number: int) -> Watch:
    """Raises Pruned if a run's scores so far are below the median of what earlier trials with this seed had then
    (``optuna.pruners.MedianPruner``)."""
    optuna = _optuna()

    def watch(step: int, scores: Mapping[str, float]) -> None:
        if not search.prune or search.score not in scores:
            return
        study = optuna.create_study(direction=search.direction, pruner=optuna.pruners.MedianPruner())
        for other, setting in _trials(search, out).items():
            (same,) = (run for run in search.grid.runs(setting) if run.seed == planned.seed)
            if other != number and runs_lib.state(same, out) == runs_lib.FINISHED:
                history = _history(search, out, same)
                study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=history))
        trial = study.ask()
        for earlier, value in (_history(search, out, planned) | {step: scores[search.score]}).items():
            trial.report(value, earlier)
        if trial.should_prune():
            raise Pruned(step, scores[search.score])

    return watch


def _history(search: Search, out: Path, planned: Planned) -> dict[int, float]:
    """Step -> score, of the evaluations during a run."""
    history = recorded.read(epath.Path(out / planned.key)).history
    return {step: scores[search.score] for step, scores in history if search.score in scores}


def _space(grid: Grid) -> dict[str, Any]:
    """Field -> Optuna's distribution of its values."""
    distributions = _optuna().distributions
    space: dict[str, Any] = {}
    for field, values in grid.values.items():
        if not isinstance(values, Range):
            space[field] = distributions.CategoricalDistribution(values)
        elif values.whole:
            space[field] = distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            space[field] = distributions.FloatDistribution(values.low, values.high, log=values.log)
    return space


def _text(value: Any, values: Sequence[str] | Range) -> str:
    """A drawn value as --config.FIELD takes it."""
    if not isinstance(values, Range):
        return str(value)
    rounded = min(max(float(f"{value:.{_DIGITS}g}"), values.low), values.high)
    return str(int(value) if values.whole else rounded)


def _number(text: str, distribution: Any) -> Any:
    """The opposite of ``_text``."""
    kinds = {"IntDistribution": int, "FloatDistribution": float}
    return kinds.get(type(distribution).__name__, str)(text)


def _optuna() -> ModuleType:
    """Optuna, which an extra installs. Raises UserError."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("--search needs Optuna, which is not installed: pip install 'naturel_jax[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
