"""Trains and evaluates what a config says.

    python -m naturel_jax.main --config configs/siglip_tp.py
    python -m naturel_jax.main --config configs/siglip_tp.py:scenes --config.optim.lr=3e-6 --workdir runs/mine

Started again with the same --workdir, a run continues where its newest checkpoint is.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, and after a colon its argument.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives. Default: runs/<name of the config file>[_<argument>]."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join other processes (TPU pods, SLURM, Kubernetes are found out)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "With --distributed: host:port of process 0, where it is not found out."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process.")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", None, "Simulate this many devices on the CPU of each process.")


_LOG = logging.getLogger("naturel_jax.main")  # __name__ is __main__


def default_workdir(config_path: str) -> str:
    """``runs/siglip_tp_scenes`` for ``configs/siglip_tp.py:scenes``."""
    path, _, argument = config_path.partition(":")
    stem = os.path.splitext(os.path.basename(path))[0]
    return os.path.join("runs", f"{stem}_{argument}" if argument else stem)


def _field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields."""
    for key in config:
        yield prefix + key
        if isinstance(value := config.get(key), ConfigDict):
            yield from _field_names(value, f"{prefix}{key}.")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing, once the config is there and has the fields that are overridden: absl's own errors for these are
    tracebacks. Returns the arguments that are no flags; exits with a message."""
    overrides = [arg for arg in argv if re.match(r"--?config\.", arg)]
    sys.argv = [arg for arg in argv if arg not in overrides]  # where config_flags looks for overrides
    app.parse_flags_with_usage(sys.argv)
    sys.argv = argv
    try:
        names = list(_field_names(_CONFIG.value))
    except OSError as error:
        there = ", ".join(sorted(map(str, Path("configs").glob("*.py")))) or "no configs/*.py"
        sys.exit(f"--config cannot be loaded; here are {there}.\n{error}")
    for arg in overrides:
        name = re.split(r"[=\[]", arg.lstrip("-").removeprefix("config."))[0]
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            sys.exit(f"{arg}: the config has no field {name!r}; the nearest is {nearest!r} (naturel_jax/config.py)")
    return app.parse_flags_with_usage(argv)


def _log_own_messages() -> None:
    """Ours from INFO on; the libraries' from WARNING on (Orbax tells every file it writes)."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("naturel_jax")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    ours.addHandler(handler)


def main(argv: list[str]) -> None:
    """Runs the config that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; overrides are written --config.optim.lr=3e-6")
    _log_own_messages()
    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    if _DISTRIBUTED.value or _COORDINATOR.value:
        # Before anything touches a device: initialising too late would silently train one copy per process.
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    from naturel_jax import suite  # imports JAX's users, which look at devices

    logging.info(
        "%d of %d devices are local: %s", jax.local_device_count(), jax.device_count(), jax.devices()[0].device_kind
    )
    suite.run_all(
        _CONFIG.value, _WORKDIR.value or default_workdir(config_flags.get_config_filename(flags.FLAGS["config"]))
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
