"""The runs of a sweep: each point of a grid with each seed, as a checked config. Whatever is wrong with a sweep is said
here, before anything runs."""

import ast
import contextlib
import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import re
import runpy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from naturel_jax import config as config_lib
from naturel_jax.benchmarks.benchmark import headlines
from naturel_jax.cli import config_flags
from naturel_jax.cli.suite import row_names
from naturel_jax.config import Config, Suite, versions
from naturel_jax.config.settings import closest
from naturel_jax.evaluators.evaluator import read_benchmarks
from naturel_jax.training import ready
from tfds_naturel.common.errors import UserError

Setting = Mapping[str, str]  # field, such as config.optim.lr -> its value, as --config.optim.lr takes it

_MOST_SEEDS = 1000
_LONGEST_NAME = 255  # bytes, of a file or folder on Linux
_RANGE = re.compile(r"([-+.\de]+?)\.\.([-+.\de]+)(:log)?")


class Range(NamedTuple):
    """Numbers from ``low`` to ``high`` that a search draws; ``whole``: integers; ``log``: by their logarithm."""

    low: float
    high: float
    log: bool
    whole: bool


Values = tuple[str, ...] | Range


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of a sweep. ``key``: its folder in --out; ``group``: its row in the table, which the seeds of a setting
    share; ``command``: trains it again elsewhere."""

    key: str
    group: str
    seed: int
    config: Config
    command: str


@dataclasses.dataclass(frozen=True)
class Grid:
    """A config and what is asked of it. ``flags``: --config and its overrides; ``name``: the sweep's, for Weights &
    Biases."""

    raw: ConfigDict
    flags: Sequence[str]
    values: Mapping[str, Values]
    seeds: tuple[int, ...]
    name: str

    def runs(self, setting: Setting) -> list[Planned]:
        """The runs of a setting: a row's (or several, of a suite) with each seed. Raises UserError for a value that is
        not allowed."""
        planned = []
        for seed in self.seeds:
            config = load(self, setting)
            # In the order of the file: a copy of a ConfigDict sorts its names.
            rows = {row: config.runs[row] for row in self.raw.runs} if isinstance(config, Suite) else {"": config}
            names = row_names(rows)
            for row, one in rows.items():
                label = ", ".join(f"{_short(field, self.values)}={value}" for field, value in setting.items())
                group = " ".join(filter(None, (names[row] if row or not label else "", label)))
                key = _folder_name("_".join(filter(None, (row, label, f"seed={seed}"))))
                named = one.wandb_group or f"{self.name}: {group}"
                one = dataclasses.replace(one, seed=seed, wandb_group=named if one.wandb else one.wandb_group)
                planned.append(Planned(key, group, seed, one, self._command(setting, row, seed)))
        return planned

    def _command(self, setting: Setting, row: str, seed: int) -> str:
        field = f"config.runs.{row}.seed" if row else "config.seed"
        changes = [f"--{name}={value}" for name, value in {**setting, field: str(seed)}.items()]
        return shlex.join(["naturel-train", *self.flags, *changes, "--workdir", "runs/again"])


def make_grid(flags: Sequence[str], grid: Sequence[str], seeds: str, name: str) -> Grid:
    """What the flags ask for; of grid and seeds, those that are empty come from the config file's ``sweep()``. Raises
    UserError."""
    raw = config_flags.parse(["naturel-sweep", *flags])
    asked = _asked(config_flags.file_name())
    fields = dict(map(_parse_field, grid)) if grid else {k: _parse_values(k, v) for k, v in asked["grid"].items()}
    for field in fields:
        config_flags.check_field(raw, field.removeprefix("config."), f"--grid {field}")
        if re.fullmatch(r"config\.(runs\.[^.]+\.)?seed", field):
            raise UserError(f"--grid {field}: seeds are not settings; write --seeds")
    own = f"{raw.get('seed', 0)},"  # a suite has no seed of its own
    return Grid(raw, flags, fields, _parse_seeds(seeds or asked["seeds"] or own), name)


def _asked(config_path: str) -> dict[str, Any]:
    """What ``sweep()`` of a config file returns, its seeds as --seeds takes them; both empty if there is no such
    function. Raises UserError."""
    default: dict[str, Any] = {"grid": {}, "seeds": ""}
    found = runpy.run_path(config_path.partition(":")[0]).get("sweep", dict)()
    if not isinstance(found, dict) or found.keys() - default or not isinstance(found.get("grid", {}), dict):
        raise UserError(
            f"{config_path}: sweep() returned {found!r:.200}; expected {{'grid': {{'config.optim.lr': (1e-4, 3e-4)}}, "
            "'seeds': 5}"
        )
    found = default | found
    seeds = found["seeds"]
    return found | {"seeds": str(seeds) if isinstance(seeds, int | str) else f"{','.join(map(str, seeds))},"}


def _parse_field(text: str) -> tuple[str, Values]:
    """``config.optim.lr=1e-4,3e-4``. Raises UserError."""
    field, equals, values = text.partition("=")
    if not equals or not field.startswith("config."):
        raise UserError(f"--grid {text}: expected config.FIELD=VALUE,VALUE, such as config.optim.lr=1e-4,3e-4")
    return field, _parse_values(field, values)


def _parse_values(field: str, given: object) -> Values:
    """The values of a field, from the command line or from ``sweep()``: separated by commas outside of brackets, or a
    range ``LOW..HIGH[:log]``. Raises UserError."""
    if isinstance(given, list | tuple):
        values = tuple(map(str, given))
    else:
        text = str(given)
        if match := _RANGE.fullmatch(text):
            return _parse_range(field, text, match)
        values = tuple(map(str.strip, _split(text)))
    if not values or not all(values):
        raise UserError(f"--grid {field}={given}: a value is empty; expected one or more, separated by commas")
    return values


def _split(text: str) -> list[str]:
    """The parts between commas that are outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _parse_range(field: str, text: str, match: re.Match[str]) -> Range:
    try:
        low, high = float(match[1]), float(match[2])
    except ValueError as error:
        raise UserError(f"--grid {field}={text}: expected LOW..HIGH or LOW..HIGH:log, two numbers") from error
    if not low < high or (match[3] and low <= 0):
        raise UserError(f"--grid {field}={text}: expected LOW below HIGH, and above 0 with :log")
    return Range(low, high, bool(match[3]), match[1].isdigit() and match[2].isdigit())


def _parse_seeds(text: str) -> tuple[int, ...]:
    """``5``: the seeds 0 to 4; ``3,7`` or ``3,``: these. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isdecimal() and len(part) < 10)
    if len(parts) == 1 and numbers and numbers[0] > _MOST_SEEDS:
        raise UserError(f"--seeds {text}: that many seeds; expected at most {_MOST_SEEDS}, or {text}, for this one")
    seeds = tuple(range(numbers[0])) if numbers and len(parts) == 1 else numbers
    if len(numbers) != len([part for part in parts if part]) or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: expected a number of seeds, such as 5, or distinct seeds, such as 0,3,7")
    return seeds


def load(grid: Grid, setting: Setting) -> Config | Suite:
    """The config with the values of a setting. Raises UserError for a value that is not allowed."""
    changed = copy.deepcopy(grid.raw)
    for field, text in setting.items():
        *path, last = field.split(".")[1:]
        inner, value = functools.reduce(operator.getitem, path, changed), text
        if not isinstance(inner[last], str):
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(text)
        with inner.ignore_type():
            inner[last] = value
    return config_lib.load(changed)


def _folder_name(text: str) -> str:
    """``text`` as the name of a folder; of one that is too long, the beginning and a digest."""
    name = re.sub(r"[^\w.=+-]+", "_", text)
    if len(encoded := name.encode()) <= _LONGEST_NAME:
        return name
    return f"{encoded[:200].decode(errors='ignore')}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _short(field: str, values: Mapping[str, Values]) -> str:
    """The last name of a field, or as many of the last ones as tell it from the grid's others."""
    names = field.split(".")
    endings = (".".join(names[-n:]) for n in range(1, len(names)))
    return next((end for end in endings if sum(f".{f}".endswith(f".{end}") for f in values) == 1), field)


def settings(grid: Grid) -> Iterator[Setting]:
    """The points of the grid. Raises UserError for a range, which has no points."""
    for field, values in grid.values.items():
        if isinstance(values, Range):
            raise UserError(f"--grid {field} is a range, which only a search draws from; add --search, or list values")
    listed = {field: values for field, values in grid.values.items() if not isinstance(values, Range)}
    for point in itertools.product(*listed.values()):
        yield dict(zip(listed, point, strict=True))


def check(runs: Sequence[Planned], out: Path) -> None:
    """Raises UserError for runs that are the same, that would share a folder, a base or a name without being the same,
    and what ``ready.check_suite`` raises."""
    same: dict[str, str] = {}  # config -> run
    bases: dict[str, tuple[Config, str]] = {}
    keys: set[str] = set()
    for run in runs:
        identity = json.dumps(
            versions.to_json(dataclasses.replace(run.config, name="", wandb_group="")), sort_keys=True
        )
        if (other := same.setdefault(identity, run.key)) != run.key or run.key in keys:
            raise UserError(f"runs {other} and {run.key} of the sweep are the same: config and seed are equal")
        keys.add(run.key)
        kind, _, name = run.config.init.partition(":")
        if kind == "base" and name not in run.config.bases:
            raise UserError(f"run {run.key}: config.init is {run.config.init!r}, which config.bases does not define")
        for name, base in run.config.bases.items():
            known, other = bases.setdefault(name, (base, run.key))
            if known != base:
                raise UserError(
                    f"runs {other} and {run.key} differ in config.bases.{name}, which the runs of a sweep share; give "
                    "each value a sweep of its own"
                )
    if taken := keys & bases.keys():
        raise UserError(f"run {min(taken)} has the name of a base; rename one of them")
    ready.check_suite({epath.Path(out / run.key): run.config for run in runs})


def check_names(runs: Sequence[Planned], score: str, baseline: str, prune: bool) -> None:
    """Raises UserError for a score that a run will not have, or a baseline that is not a setting."""
    groups = list(dict.fromkeys(run.group for run in runs))
    if baseline and baseline not in groups:
        raise UserError(f"--baseline {baseline!r} is not a setting of the sweep; {closest(baseline, groups)}")
    if score:
        for config in (run.config for run in _distinct_evaluations(runs)):
            known = [metric.name for benchmark in read_benchmarks(config) for metric in benchmark.metrics]
            if score not in known:
                raise UserError(f"--score {score!r} is not a score of these runs; {closest(score, known)}")
            if prune and score not in (recorded := headlines(known)):
                raise UserError(f"--prune: {score!r} is not recorded during training; {closest(score, recorded)}")
            if prune and config.eval.during.get(score.split("/")[0], "0").split()[0] in ("0", "0%"):
                raise UserError(
                    f"--prune: config.eval.during.{score.split('/')[0]} is missing: a run is pruned by its evaluations "
                    "during training"
                )


def _distinct_evaluations(runs: Sequence[Planned]) -> list[Planned]:
    """A run of each distinct ``config.eval``."""
    return list({json.dumps(versions.to_json(run.config)["eval"], sort_keys=True): run for run in runs}.values())
