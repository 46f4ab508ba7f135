"""The config of a run.

Files in ``configs/`` start from ``base()``, an ``ml_collections.ConfigDict``, and change some of its fields; ``load``
checks the result up front and turns it into the frozen, typed ``Config`` that the rest of the program uses.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from naturel_jax.config.checks import check, check_folder
from naturel_jax.config.record_fields import Fields
from naturel_jax.config.schema import (
    Adapter,
    Checkpoint,
    Compute,
    Config,
    Data,
    Eval,
    Mesh,
    Objective,
    Optim,
    Part,
    Suite,
)
from naturel_jax.config.settings import parse, to_config_dict

__all__ = [
    "Adapter",
    "Checkpoint",
    "Compute",
    "Config",
    "Data",
    "Eval",
    "Fields",
    "Mesh",
    "Objective",
    "Optim",
    "Part",
    "Suite",
    "base",
    "check",
    "load",
    "part",
    "suite",
    "to_config_dict",
]


def base() -> ConfigDict:
    """A config with every field at its default, for a config file to change."""
    return to_config_dict(Config())


def part(dataset: str, recipe: str, **fields: Any) -> ConfigDict:
    """A part of ``config.data.mixture``; see ``Part`` for the other fields."""
    return to_config_dict(Part(dataset, recipe, **fields))


def suite(
    runs: Mapping[str, ConfigDict], minutes: Mapping[str, float] = MappingProxyType({}), measured_on: str = ""
) -> ConfigDict:
    """The config of several runs; see ``Suite``. A run's base that is itself one of the runs shares that run's config;
    otherwise it would be evaluated with another one, under the same name."""
    for run in runs.values():
        for name in set(run.bases) & set(runs):
            run.bases[name] = runs[name]
    ordered = ConfigDict(dict(runs), sort_keys=False)  # the order of the table's rows
    return ConfigDict({"runs": ordered, "minutes": dict(minutes), "measured_on": measured_on})


def load(raw: ConfigDict) -> Config | Suite:
    """The typed config of one run, or of a suite, from the return value of a config file. Raises UserError."""
    if "runs" not in raw:
        return check(parse(Config, dict(raw.items())))
    result = parse(Suite, dict(raw.items()))
    for key, run in result.runs.items():
        check_folder(key, "config.runs")
        check(run, f"config.runs.{key}")
    return result
