"""Compiles the training step of a config for a TPU slice that is not there: does it fit, what does it need and cost?

    python -m naturel_jax.plan --config configs/siglip_tp.py --topology v5e:2x4
    python -m naturel_jax.plan --config siglip_tp --topology v5e:16x16 --config.data.batch_size=8192 --price 1.2

Runs on the CPU, with the compiler that `pip install 'naturel_jax[plan-tpu]'` brings. Exit codes: 0 the step fits, 3 it
does not, 2 a mistake in a flag, config or file.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfds_naturel import cli
from tfds_naturel.errors import UserError

if TYPE_CHECKING:  # JAX is imported after the environment is set
    import jax

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

DOES_NOT_FIT = 3  # exit code


def make_parser() -> argparse.ArgumentParser:
    """The flags, without the overrides ``--config.x=y``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a config, as for naturel-train; --config.x=y changes a field")
    parser.add_argument("--topology", required=True, help="TPU slice: v5e:2x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1, ...")
    parser.add_argument("--processes", type=int, default=1, help="check that so many can share batch and mesh")
    parser.add_argument("--price", type=float, help="price of a chip-hour: prints the cost of the run")
    parser.add_argument(
        "--tokens", type=int, default=24, help="longest caption of a batch, for a text tower that trims captions"
    )
    parser.add_argument(
        "--examples", type=int, default=100_000, help="images in an epoch, where the data is not prepared"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Plans the config given by the flags; returns the exit code."""
    overrides = [argument for argument in arguments if re.match(r"--?config\.", argument)]
    args = make_parser().parse_args([argument for argument in arguments if argument not in overrides])
    os.environ.update(ENVIRONMENT)
    from naturel_jax import config as config_lib
    from naturel_jax import config_flags, planning

    config = config_lib.load(config_flags.parse([sys.argv[0], f"--config={args.config}", *overrides]))
    if isinstance(config, config_lib.Suite):
        raise UserError(f"--config {args.config} holds several runs; plan the config of one of them")
    if min(args.processes, args.tokens, args.examples) < 1:
        raise UserError("--processes, --tokens and --examples must be at least 1")
    devices = described_devices(args.topology)
    training = planning.make_training(config, devices, args.processes, args.tokens, args.examples)
    result = {"name": config.name, "topology": args.topology} | planning.plan(config, training, args.price)
    print(json.dumps(result, indent=1) if args.json else planning.to_text(result))
    return cli.DONE if result["fits"] else DOES_NOT_FIT


def described_devices(topology: str) -> list["jax.Device"]:
    """The devices of a TPU slice such as ``v5e:2x4``, of which only the compiler knows. Raises UserError."""
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
