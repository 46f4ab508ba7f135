"""Compiles the training step of a config for accelerators you do not have: does it fit, and what does it cost?

    naturel-plan --config siglip_tp --topology v5e:2x4
    naturel-plan --config siglip_tp --topology v5e:16x16 --config.data.batch_size=8192 --price 1.2
    naturel-plan --config siglip_tp --topology h100x8 --search

Runs on the CPU, with the compiler that `pip install 'naturel_jax[plan-tpu]'` or `'naturel_jax[plan-gpu]'` installs.
--search tries other settings of recomputation, chunks, exchange and mesh than the config's. Exit codes: 0 the step (or
a candidate) fits, 3 it does not, 2 a mistake in a flag, config or file.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Sequence

from naturel_jax.config import settings
from naturel_jax.planning import topologies
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

DOES_NOT_FIT = 3  # exit code


def make_parser() -> argparse.ArgumentParser:
    """The flags, without the overrides ``--config.x=y``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a config, as for naturel-train; --config.x=y changes a field")
    parser.add_argument(
        "--topology",
        required=True,
        help="TPU slice: v5e:2x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1, ...; GPUs: h100x8 (a host with 8 cards), h100x4x8 "
        f"(4 such hosts), of {', '.join(topologies.CARDS)}",
    )
    parser.add_argument("--processes", type=int, default=1, help="check that this many can share batch and mesh")
    parser.add_argument("--price", type=float, help="price per chip- or card-hour: prints the cost of the run")
    parser.add_argument(
        "--tokens", type=int, default=24, help="longest caption of a batch, for a text tower that trims captions"
    )
    parser.add_argument("--examples", type=int, default=100_000, help="images per epoch, if the data is not prepared")
    parser.add_argument(
        "--search", action="store_true", help="find the fastest step that fits, over remat, chunks, exchange and mesh"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Plans the config given by the flags; returns the exit code."""
    words = settings.joined(arguments)
    overrides = [word for word in words if re.match(r"--?config\.", word)]
    args = make_parser().parse_args([word for word in words if word not in overrides])
    cli.check_counts(args, "processes", "tokens")
    cli.check_counts(args, "examples", most=1 << 40)
    topologies.prepare(args.topology)
    from naturel_jax import config as config_lib
    from naturel_jax.cli import config_flags
    from naturel_jax.planning import estimate, search

    config = config_lib.load(config_flags.parse([sys.argv[0], f"--config={args.config}", *overrides]))
    if isinstance(config, config_lib.Suite):
        raise UserError(f"--config {args.config} holds several runs; plan the config of one of them")
    devices = topologies.devices(args.topology)
    make = functools.partial(
        estimate.make_training,
        devices=devices,
        processes=args.processes,
        tokens=args.tokens,
        examples=args.examples,
    )
    result = {"name": config.name, "topology": args.topology}
    print(f"compiling the step of {config.name} for {args.topology}; this may take minutes", file=sys.stderr)
    if args.search:
        result |= search.report(config, devices, make, args.price)
        text, fits = search.to_text, result["fastest"] is not None
    else:
        result |= estimate.plan(config, make(config), args.price)
        text, fits = estimate.to_text, result["fits"]
    print(json.dumps(result, indent=1) if args.json else text(result))
    return cli.DONE if fits else DOES_NOT_FIT


if __name__ == "__main__":
    cli.run(main)
