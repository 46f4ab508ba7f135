"""The format of configs in checkpoints and ``config.json``."""

import dataclasses
from typing import Any

from naturel_jax.config import Config
from naturel_jax.config.settings import parse
from tfds_naturel.common.errors import UserError

# Of release 0.1.0. Raise it whenever you rename or move a field, and let ``from_json`` convert what releases wrote. A
# new field needs neither, but its default must keep the previous behavior.
VERSION = 3


def to_json(config: Config) -> dict[str, Any]:
    """The config as saved in checkpoints."""
    return {"version": VERSION} | dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> Config:
    """The config of a checkpoint. Raises UserError for another version, and for a field that is none."""
    fields = {key: value for key, value in saved.items() if key != "version"}
    if (version := saved.get("version")) != VERSION:
        raise UserError(
            f"its config has version {version!r:.20}; this naturel_jax reads {VERSION}: install the one that wrote it"
        )
    return parse(Config, fields, "saved config", saved=True)
