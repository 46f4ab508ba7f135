"""Trains and evaluates the runs of a config.

    python -m naturel_jax.main --config configs/siglip_tp.py
    naturel-train --config siglip_tp:scenes --config.optim.lr=3e-6 --workdir runs/mine

When started again with the same --workdir, a run continues from its newest checkpoint. Exit codes: 0 done, 2 a mistake
in a flag, config or file, 75 stopped and saved.
"""

import logging
import sys
import time
from collections.abc import Sequence

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath

from naturel_jax import config as config_lib
from naturel_jax.cli import compilation_cache, config_flags
from naturel_jax.devices import preemption, processes
from tfds_naturel.common import cli

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives. Default: runs/<name of the config file>[_<argument>]."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join other processes (TPU pods, SLURM and Kubernetes are detected automatically)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "With --distributed: host:port of process 0, if it is not detected."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process.", lower_bound=0)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "Simulate this many devices on the CPU of each process.", lower_bound=1
)

flags.adopt_module_key_flags(config_flags)

_LOG = logging.getLogger("naturel_jax.main")  # __name__ is __main__


def main(arguments: Sequence[str]) -> None:
    """Runs the config given by the flags."""
    if {"--help", "-h", "--helpfull"} & set(arguments):
        print(f"{__doc__}\nFlags:\n{flags.FLAGS.module_help(flags.FLAGS.find_module_defining_flag('workdir'))}")
        return
    processes.check_limits()
    config = config_lib.load(config_flags.parse([sys.argv[0], *arguments]))
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every file it writes and every error it raises
    if _CPU_DEVICES.value:
        jax.config.update("jax_num_cpu_devices", _CPU_DEVICES.value)
    if _DISTRIBUTED.value or _COORDINATOR.value:
        processes.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    preemption.install_handler()
    with preemption.interruptible():  # devices of some kinds take long to begin with
        compilation_cache.enable()
        kind = jax.devices()[0].device_kind
    _LOG.info("%d of %d devices are local: %s", jax.local_device_count(), jax.device_count(), kind)
    workdir = _WORKDIR.value or config_flags.default_workdir(config_flags.file_name())
    run_all(config, workdir, config_flags.overridden())


def run_all(config: config_lib.Config | config_lib.Suite, workdir: str, recipe: Sequence[str] = ()) -> None:
    """Runs ``config.runs`` in order, each in ``<workdir>/<key>``, or the single run ``config``, and updates the report
    in ``workdir`` after each; ``recipe``: what differs from the config file. Finished runs are not repeated. Raises
    UserError if two of its rows share a name."""
    with preemption.interruptible():  # these imports take seconds, and on a busy machine many
        from naturel_jax.cli.suite import SuiteReport  # importing it touches devices
        from naturel_jax.training import ready
        from naturel_jax.training.run import run

        table = SuiteReport(config, epath.Path(workdir), recipe)
        if len(table.runs) > 1:
            ready.check_suite({epath.Path(workdir) / key: part for key, part in table.runs.items()})
    for key, part in table.runs.items():
        began = time.monotonic()
        found = run(part, epath.Path(workdir) / key)
        table.add(key, found, time.monotonic() - began)


if __name__ == "__main__":
    cli.run(main)
