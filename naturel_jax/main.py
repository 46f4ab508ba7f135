"""Trains and evaluates what a config says.

    python -m naturel_jax.main --config configs/siglip_tp.py
    python -m naturel_jax.main --config configs/siglip_tp.py:scenes --config.optim.lr=3e-6 --workdir runs/mine

Started again with the same --workdir, a run continues where its newest checkpoint is. Exit codes: 0 done, 2 a mistake
in a flag, config or file, 75 stopped and saved.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from naturel_jax import config as config_lib
from naturel_jax import preemption
from naturel_jax.settings import meanings, nearest
from tfds_naturel import cli
from tfds_naturel.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, and after a colon its argument.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives. Default: runs/<name of the config file>[_<argument>]."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join other processes (TPU pods, SLURM, Kubernetes are detected automatically)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "With --distributed: host:port of process 0, where it is not detected."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process.", lower_bound=0)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "Simulate this many devices on the CPU of each process.", lower_bound=1
)

_LOG = logging.getLogger("naturel_jax.main")  # __name__ is __main__


def default_workdir(config_path: str) -> str:
    """``runs/siglip_tp_scenes`` for ``configs/siglip_tp.py:scenes``."""
    path, _, argument = config_path.partition(":")
    return str(Path("runs") / (f"{Path(path).stem}_{argument}" if argument else Path(path).stem))


def _field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields."""
    for key in config:
        yield prefix + key
        if isinstance(value := config.get(key), ConfigDict):
            yield from _field_names(value, f"{prefix}{key}.")


def _load_config_file() -> ConfigDict:
    """What the config file returns. Raises UserError for a file that is missing or raises."""
    try:
        config = _CONFIG.value
    except OSError as error:
        known = ", ".join(sorted(map(str, Path("configs").glob("*.py")))) or "no configs/*.py"
        raise UserError(f"--config cannot be loaded; here are {known}. {error}") from error
    except Exception as error:  # a config file is the user's program and may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"--config cannot be loaded: {frame.filename} line {frame.lineno}: {what}") from error
    if config is None:
        raise UserError("--config is missing; start as in: --config configs/siglip_tp.py")
    return config


def parse_flags(argv: Sequence[str]) -> ConfigDict:
    """Parses the flags; the config with the overrides ``--config.x=y``. Raises UserError.

    Overrides are parsed last: for a mistyped field absl has a traceback, and we the nearest name.
    """
    overrides = [arg for arg in argv if re.match(r"--?config\.", arg)]
    others = [arg for arg in argv if arg not in overrides]
    try:
        sys.argv = others  # where config_flags looks for overrides
        flags.FLAGS(others)
        names = list(_field_names(_load_config_file()))
        known = dict.fromkeys(names, "") | {k: v for k, v in meanings(config_lib.Config) if k in names}
        for arg in overrides:
            name = re.split(r"[=\[]", arg.lstrip("-").removeprefix("config."))[0]
            if name not in names:
                raise UserError(
                    f"{arg}: the config has no field {name!r}; {nearest(name, known)} (naturel_jax/config.py)"
                )
        sys.argv = list(argv)
        rest = flags.FLAGS(argv)
    except (flags.Error, TypeError) as error:  # TypeError: an override of another type
        raise UserError(str(error)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {rest[1:]}; overrides are written --config.optim.lr=3e-6")
    return _load_config_file()


def main(arguments: Sequence[str]) -> None:
    """Runs the config that the flags name."""
    if {"--help", "-h", "--helpfull"} & set(arguments):
        print(f"{__doc__}\nFlags:\n{flags.FLAGS.get_key_flags_for_module(__name__)}")
        return
    config = config_lib.load(parse_flags([sys.argv[0], *arguments]))
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax logs every file that it writes
    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    if _DISTRIBUTED.value or _COORDINATOR.value:
        # Before anything touches a device: initialised later, each process would train a copy of its own.
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    from naturel_jax import suite  # what it imports looks at devices

    kind = jax.devices()[0].device_kind
    _LOG.info("%d of %d devices are local: %s", jax.local_device_count(), jax.device_count(), kind)
    workdir = _WORKDIR.value or default_workdir(config_flags.get_config_filename(flags.FLAGS["config"]))
    suite.run_all(config, workdir, preemption.install_handler())


if __name__ == "__main__":
    cli.run(main)
