"""Compiles the training step of a shipped config for eight TPU v5e, none of which needs to be here, and prints what the
program does with the parameters of the blocks, which numbers its matrix products multiply, and which sums it sends.

    python -m tests.helpers.tpu_program siglip_tp dots

``pip install 'naturel_jax[plan-tpu]'`` has the compiler.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from naturel_jax.planning import topologies

TOPOLOGY = "v5e:2x4"
topologies.prepare(TOPOLOGY)  # before JAX is imported

import jax  # noqa: E402

from naturel_jax import config as config_lib  # noqa: E402
from naturel_jax.cli import config_flags  # noqa: E402
from naturel_jax.planning import estimate  # noqa: E402

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_RESULT = re.compile(r"%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_PARAMETER = re.compile(r"([\w.\-]+): ([a-z]+\d*)\[")
_OPERAND = re.compile(r"%([\w.\-]+)")


def program(name: str, remat: str) -> tuple[str, list[str]]:
    """The compiled step of a config, and the sizes of the stacked kernels of its blocks, as HLO writes them."""
    flags = [f"--config=configs/{name}.py", "--config.data.dir=build/none", f"--config.compute.remat={remat}"]
    flags.append("--config.objective.exchange=ring")
    config = config_lib.load(config_flags.parse(["", *flags]))
    devices = topologies.devices(TOPOLOGY)
    training = estimate.make_training(config, devices, processes=1, tokens=24, examples=100_000)
    lowered = training.step.lower(training.state, training.pipeline.shapes(0))
    params = training.state.params
    towers = [params[tower]["transformer"]["blocks"] for tower in ("image", "text")]
    kernels = [x.shape for x in jax.tree.leaves(towers) if x.ndim > 2 and x.size > 1 << 20]
    return lowered.compile().as_text(), [",".join(map(str, shape)) for shape in kernels]


def facts(hlo: str, kernels: list[str]) -> dict[str, Any]:
    """What ``tests/planning/test_tpu_programs.py`` expects."""
    lines = [match for line in hlo.splitlines() if (match := _RESULT.search(line))]
    dtypes = dict(_PARAMETER.findall(hlo)) | {match[1]: match[2].partition("[")[0] for match in lines}
    of = {kind: [match[2] for match in lines if match[3] == kind] for kind in ("while", "fusion", "all-reduce")}
    return {
        "kernels": sorted(set(kernels)),
        "in_loops": sorted({kind for loop in of["while"] for kind, size in _ARRAY.findall(loop) if size in kernels}),
        "updated_at_once": sorted({size for result in of["fusion"] for size in kernels if _updates(result, size)}),
        "products": sorted(set(_products(lines, dtypes))),
        "summed": sorted({array for result in of["all-reduce"] for array in _ARRAY.findall(result) if "," in array[1]}),
    }


def _updates(result: str, size: str) -> bool:
    """Whether a fusion returns a parameter and both moments."""
    return _ARRAY.findall(result) == [("f32", size)] * 3


def _products(lines: list[re.Match[str]], dtypes: dict[str, str]) -> Iterator[str]:
    """Dtypes of the factors and of the result of each matrix product, and its precision if that is set."""
    for match in lines:
        if match[3] in ("convolution", "dot"):
            factors = sorted(dtypes[operand] for operand in _OPERAND.findall(match[4])[:2])
            precision = " highest" if "operand_precision={highest,highest}" in match[4] else ""
            yield f"{' '.join(factors)} -> {dtypes[match[1]]}{precision}"


if __name__ == "__main__":
    print(json.dumps(facts(*program(*sys.argv[1:]))))
