"""The config format of checkpoints, and migrations from its earlier versions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from naturel_jax.config import Config
from naturel_jax.config.settings import parse
from tfds_naturel.common.errors import UserError


def _to_1(saved: dict[str, Any]) -> dict[str, Any]:
    """Before version 1, all benchmarks evaluated during training shared one interval, and the base had no name."""
    saved = {key: value for key, value in saved.items() if key != "base"}
    every = saved["eval"].get("every", "0 steps")
    evaluated = {key: value for key, value in saved["eval"].items() if key != "every"}
    return saved | {"eval": evaluated | {"during": dict.fromkeys(evaluated["during"], every)}}


def _to_2(saved: dict[str, Any]) -> dict[str, Any]:
    """Before version 2, ``objective.ring`` said whether captions travel around the ring."""
    objective = {key: value for key, value in saved.get("objective", {}).items() if key != "ring"}
    exchange = "ring" if saved.get("objective", {}).get("ring", True) else "gather"
    bases = {name: _to_2(base) for name, base in saved.get("bases", {}).items()}
    return saved | {"objective": objective | {"exchange": exchange}, "bases": bases}


def _to_3(saved: dict[str, Any]) -> dict[str, Any]:
    """Before version 3, with ``data.augment_on`` 'device', devices resized decoded images as 'bilinear' now does, which
    they also held if ``data.cache`` was 'device'."""
    data = {key: value for key, value in saved.get("data", {}).items() if key != "augment_on"}
    if saved.get("data", {}).get("augment_on") == "device":
        data |= {"cache": "decoded", "shrink_by": "bilinear"}
    return saved | {"data": data, "bases": {name: _to_3(base) for name, base in saved.get("bases", {}).items()}}


# ``MIGRATIONS[n]`` turns the JSON of version n into that of version n + 1. Add one whenever you rename or move a field.
# A new field needs none, but its default must keep the previous behavior.
MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_to_1, _to_2, _to_3)
VERSION = len(MIGRATIONS)


def to_json(config: Config) -> dict[str, Any]:
    """The config as saved in checkpoints."""
    return {"version": VERSION} | dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> Config:
    """The config of a checkpoint of this version or an earlier one. Raises UserError for a later one."""
    fields = {key: value for key, value in saved.items() if key != "version"}
    version = saved.get("version", 0)
    if version > VERSION:
        raise UserError(
            f"its config has version {version}; this naturel_jax reads up to {VERSION}: install a newer one"
        )
    migrated = functools.reduce(lambda fields, migrate: migrate(fields), MIGRATIONS[version:], fields)
    return parse(Config, migrated, "saved config", saved=True)
