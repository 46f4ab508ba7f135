"""``--config NAME`` or ``--config FILE``, and overrides ``--config.x=y``, with messages instead of tracebacks."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from naturel_jax.cli import hints
from naturel_jax.config import Config
from naturel_jax.config.settings import joined, meanings, nearest
from tfds_naturel.common.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config of this package by name, or a config file; optionally followed by a colon and its argument.",
    lock_config=True,
)
PACKAGED = Path(__file__).parents[1] / "configs"


def file_name() -> str:
    """The value of ``--config``."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def default_workdir(config_path: str) -> str:
    """``runs/siglip_tp_scenes`` for ``configs/siglip_tp.py:scenes``. The argument may be a path."""
    path, _, argument = config_path.partition(":")
    words = re.findall(r"[\w.=-]+", argument)
    return str(Path("runs") / "_".join([Path(path).stem, *words]))


def names() -> list[str]:
    """The configs of this package."""
    return sorted(path.stem for path in PACKAGED.glob("*.py") if path.stem not in ("__init__", "drawn_world"))


def locate(value: str) -> str:
    """``value`` of ``--config``, with the name of a config of this package replaced by the path of its file."""
    name, colon, argument = value.partition(":")
    path = PACKAGED / f"{name}.py" if name in names() and not Path(name).is_file() else name
    return f"{path}{colon}{argument}"


def _located(argv: Sequence[str]) -> list[str]:
    """``argv`` with the value of ``--config=`` located. Also makes modules next to the config file importable. Raises
    UserError for the config that a run has saved."""
    located = []
    for word in argv:
        if match := re.fullmatch("(--?config)=(.*)", word, re.DOTALL):
            path = Path(match[2].partition(":")[0])
            if path.suffix == ".json":
                raise UserError(
                    f"--config {match[2]}: a config file is Python; the command that began a run continues it, with "
                    "the fields that it sets"
                )
            # As `python FILE` and `python -m` do, but last, so that no file there hides an installed package.
            sys.path += [folder for folder in (str(path.resolve().parent), os.getcwd()) if folder not in sys.path]
            word = f"{match[1]}={locate(match[2])}"
        located.append(word)
    return located


def _field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields."""
    for key in config:
        yield prefix + key
        if isinstance(value := config.get(key), ConfigDict):
            yield from _field_names(value, f"{prefix}{key}.")


def check_field(config: ConfigDict, name: str, argument: str) -> None:
    """Raises UserError, which begins with ``argument``, if the config has no field of this dotted name."""
    fields = list(_field_names(config))
    if name not in fields:
        own = [field for field in fields if field.startswith("bases.") == name.startswith("bases.")]
        known = dict.fromkeys(own, "") | {k: v for k, v in meanings(Config) if k in own}
        instead = hints.for_field(name, fields) or f"; {nearest(name, known)}"
        raise UserError(f"{argument}: the config has no field {name!r}{instead} (naturel_jax/config/schema.py)")


def _parse(arguments: Sequence[str]) -> list[str]:
    """Parses the flags, which runs the config file, and returns the non-flag arguments. Raises UserError."""
    try:
        return flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"{error}{hints.for_flag(error.flagname)}") from error
    except Exception as error:  # a config file is user code and may raise anything
        path = next((word.partition("=")[2] for word in arguments if re.match(r"--?config=", word)), "").split(":")[0]
        if (where := hints.of_config_file(error, path)) is not None:
            raise UserError(f"--config cannot be loaded: {where}") from error
        if isinstance(error, flags.Error):
            raise UserError(str(error)) from error
        if isinstance(error, AttributeError) and "get_config" in str(error):
            raise UserError(f"--config {path} has no function get_config, which returns the config") from error
        raise UserError(f"--config {path} cannot be loaded: {type(error).__name__}: {error}") from error


def overridden() -> list[str]:
    """What the overrides of the last ``parse`` changed in the config file, in lines."""
    values = config_flags.get_override_values(flags.FLAGS["config"])
    changed = [f"config.{field} is {value!r}." for field, value in values.items()]
    return [f"Config file: {file_name()}" + ", with these changes:" * bool(changed), *changed]


def parse(argv: Sequence[str]) -> ConfigDict:
    """Parses the flags and returns the config with the overrides ``--config.x=y`` applied. Raises UserError.

    Overrides are parsed last: for a mistyped field, absl prints a traceback where we suggest the nearest name.
    """
    argv = _located(joined(argv))
    overrides = [arg for arg in argv if re.match(r"--?config\.", arg)]
    others = [arg for arg in argv if arg not in overrides]
    sys.argv = others  # where ml_collections looks for overrides
    _parse(others)
    if CONFIG.value is None:
        given = any(re.match(r"--?config=", arg) for arg in argv)
        what = "returns None: get_config has no return" if given else "is missing; for example: --config siglip_tp"
        raise UserError(f"--config {what}")
    try:
        CONFIG.value.keys()
    except OSError as error:  # ml_collections raises it when the config is first accessed
        attempted = str(error).split()[-1].strip("'")
        raise UserError(f"--config {attempted} not found; expected a file or one of: {', '.join(names())}") from error
    for arg in overrides:
        check_field(CONFIG.value, re.split(r"[=\[]", arg.lstrip("-").removeprefix("config."))[0], arg)
    sys.argv = list(argv)
    rest = _parse(argv)
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {rest[1:]}; overrides are written --config.optim.lr=3e-6")
    return CONFIG.value
