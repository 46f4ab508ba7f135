"""Compiles the training step of a config for a TPU slice that is not there: does it fit, what does it need and cost?

    python -m naturel_jax.plan --config configs/siglip_tp.py --topology v5e:2x4
    python -m naturel_jax.plan --config siglip_tp --topology v5e:16x16 --config.data.batch_size=8192 --price 1.2

Runs on the CPU, with the compiler that `pip install 'naturel_jax[plan-tpu]'` brings. Exit codes: 0 the step fits, 1 it
does not, 2 a mistake in a flag, config or file.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfds_naturel import cli
from tfds_naturel.errors import UserError

if TYPE_CHECKING:  # JAX is imported after the environment is set
    import jax

_TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice: v5e:2x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1, ...")
_PROCESSES = flags.DEFINE_integer("processes", 1, "Check that this many processes can share batch and mesh.", 1)
_PRICE = flags.DEFINE_float("price", None, "Price of a chip-hour: prints the cost of the run.", 0)
_TOKENS = flags.DEFINE_integer("tokens", 24, "Longest caption of a batch, for a text tower that trims captions.", 2)
_EXAMPLES = flags.DEFINE_integer("examples", 100_000, "Images in an epoch, where the data is not prepared.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object.")

# Without these, JAX looks for a TPU, and libtpu locks out other processes, asks a metadata server what machine this is,
# and complains that it got no answer. The slice is that of --topology, whatever is said here.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}

DOES_NOT_FIT = 1  # exit code


def main(arguments: Sequence[str]) -> int:
    """Plans the config given by the flags; returns the exit code."""
    os.environ.update(ENVIRONMENT)
    from naturel_jax import config_flags

    flags.adopt_module_key_flags(config_flags)
    if {"--help", "-h", "--helpfull"} & set(arguments):
        print(f"{__doc__}\nFlags:\n{flags.FLAGS.module_help(flags.FLAGS.find_module_defining_flag('topology'))}")
        return cli.DONE
    from naturel_jax import config as config_lib
    from naturel_jax import planning

    config = config_lib.load(config_flags.parse([sys.argv[0], *arguments]))
    if isinstance(config, config_lib.Suite):
        raise UserError(f"--config {config_flags.file_name()} holds several runs; plan the config of one of them")
    devices = described_devices(_TOPOLOGY.value)
    training = planning.make_training(config, devices, _PROCESSES.value, _TOKENS.value, _EXAMPLES.value)
    result: dict[str, Any] = {"name": config.name, "topology": _TOPOLOGY.value}
    result |= planning.plan(config, training, _PRICE.value)
    print(json.dumps(result, indent=1) if _JSON.value else planning.to_text(result))
    return cli.DONE if result["fits"] else DOES_NOT_FIT


def described_devices(topology: str | None) -> list["jax.Device"]:
    """The devices of a TPU slice such as ``v5e:2x4``, of which only the compiler knows. Raises UserError."""
    if not topology:
        raise UserError("--topology is missing; for example: --topology v5e:2x4")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed: run `pip install 'naturel_jax[plan-tpu]'`")
    import jax
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(
            f"--topology {topology}: {error}; expected one such as v5e:2x4, v5p:2x2x1, v6e:4x4 or tpu7x:2x2x1"
        ) from error


if __name__ == "__main__":
    cli.run(main)
