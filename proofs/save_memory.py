"""How much memory each save of a checkpoint leaves behind, and why.

    python -m proofs.save_memory

saves small checkpoints over and over and prints the growth of anonymous memory, as it is and without TensorStore's
metrics, which Orbax collects several times in each save; and what collecting them costs by itself.
"""

import argparse
import ctypes
import gc
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import tensorstore
from absl import logging as absl_logging

from naturel_jax.checkpoints.checkpoint import Checkpoints
from tfds_naturel.common import cli

WARM_UP = 40  # saves; later ones find memory that earlier ones have left


def memory() -> float:
    """KB of anonymous memory, after returning to the system what the allocator keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return float(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def growth(saves: int) -> float:
    """KB a save of 90 small arrays, about as many as a tiny model has with its moments."""
    arrays = {"params": {f"{n}": jnp.ones((64, 64)) for n in range(90)}}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, keep=2)
        for step in range(WARM_UP + saves):
            checkpoints.save(step, arrays, {"step": step}, wait=True)
            if step == WARM_UP:
                before = memory()
        after = memory()
        checkpoints.close()
    return (after - before) / saves


def collected(calls: int, metrics: Callable[[], object]) -> float:
    """KB a call of ``metrics``."""
    before = memory()
    for _ in range(calls):
        metrics()
    return (memory() - before) / calls


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=200)
    options = parser.parse_args(arguments)
    absl_logging.set_verbosity(absl_logging.ERROR)
    metrics = tensorstore.experimental_collect_matching_metrics
    print(f"a save: {growth(options.saves):.1f} KB")
    tensorstore.experimental_collect_matching_metrics = lambda *_: []
    print(f"a save without TensorStore's metrics: {growth(options.saves):.1f} KB")
    print(f"collecting TensorStore's metrics once: {collected(1000, lambda: metrics('/tensorstore/')):.1f} KB")


if __name__ == "__main__":
    cli.run(main)
