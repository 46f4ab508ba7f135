"""Which steps fit which slices and hosts: a table of what ``naturel-plan`` says of each.

    python -m perf.fits tpu    # with naturel_jax[plan-tpu]
    python -m perf.fits gpu    # with naturel_jax[plan-gpu]

Recomputation and exchange are those that ``auto`` becomes. Each step is compiled in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

_GIB = 2**30
_L14, _L14_336 = "hf:openai/clip-vit-large-patch14", "hf:openai/clip-vit-large-patch14-336"
_SO400M, _GIANT = "hf:google/siglip-so400m-patch14-384", "hf:google/siglip2-giant-opt-patch16-384"


class Step(NamedTuple):
    """A config, a slice or hosts, and the images of a batch. ``init``: other weights than the config's; their
    parameters are split over all devices."""

    config: str
    topology: str
    images: int
    init: str = ""


STEPS = {
    "tpu": (
        Step("siglip_tp", "v5e:2x2", 128),
        Step("siglip_tp", "v5e:2x4", 512),
        Step("siglip_tp", "v5e:4x4", 2048),
        Step("siglip_tp", "v5e:16x16", 8192),
        Step("siglip_tp", "v5p:2x2x1", 512),
        Step("siglip_tp", "v6e:2x2", 512),
        Step("siglip_tp", "tpu7x:2x2x1", 1024),
        Step("negclip_ap", "v5e:2x2", 128),
        Step("negclip_ap", "v5e:2x4", 1024),
        Step("negclip_ap", "v6e:2x2", 512),
        Step("negclip_ap", "v5e:2x2", 128, _L14_336),
        Step("siglip_tp", "v5e:2x2", 64, _SO400M),
        Step("siglip_tp", "v5e:2x2", 32, _GIANT),
    ),
    "gpu": (
        Step("negclip_ap", "h100x8", 1024, _L14),
        Step("negclip_ap", "h100x4x8", 4096, _L14),
        Step("siglip_tp", "h100x8", 256, _SO400M),
        Step("siglip_tp", "h100x4x8", 1024, _SO400M),
    ),
}


def plan(step: Step) -> dict[str, Any]:
    """What ``naturel-plan --json`` prints; its messages go to stderr. Raises UserError if it refuses the step."""
    flags = [f"--config={step.config}", f"--topology={step.topology}", f"--config.data.batch_size={step.images}"]
    flags += ["--config.compute.remat=auto", "--config.objective.exchange=auto"]
    if step.init:
        flags += [f"--config.init={step.init}", "--config.mesh.data=1", "--config.mesh.fsdp=-1"]
    command = [sys.executable, "-m", "naturel_jax.plan", *flags, "--config.data.dir=build/none", "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not ended.stdout:
        raise UserError(f"{' '.join(command)} ended with exit code {ended.returncode}; see its message above")
    return json.loads(ended.stdout)


def row(step: Step, found: dict[str, Any]) -> str:
    """A row of the table, in Markdown."""
    devices, rows = found["devices"], found["rows"]
    name = f"`{step.config}`" + (f", {step.init.rpartition('/')[2]}" if step.init else "")
    batch = f"{rows['images'] // devices} + {rows['captions'] // devices} of {rows['tokens']} tokens"
    needed, usable = found["needed"] / _GIB, found["usable"] / _GIB
    fits = f"{needed:.2f} of {usable:.2f}" + ("" if found["fits"] else ": does not fit")
    bound = f"{1e3 * found['at_least']['step']:.0f}" if "at_least" in found else ""
    return f"| {name} | {step.topology} | {batch} | {found['remat']} | {found['exchange']} | {fits} | {bound} |"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", choices=sorted(STEPS))
    print("| step | devices | images + captions a device | recomputed | exchange | GiB a device | at least, ms |")
    print("|---|---|---|---|---|---:|---:|")
    for step in STEPS[parser.parse_args(arguments).devices]:
        print(row(step, plan(step)), flush=True)


if __name__ == "__main__":
    cli.run(main)
