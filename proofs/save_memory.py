"""How much memory each save of a checkpoint leaves behind, and why.

    python -m proofs.save_memory

TensorStore leaks references to what it returns as JSON, and Orbax asks it for a description of the folder once for each
array, and for metrics several times a save. This saves small checkpoints over and over, and prints how many Python
objects and how much anonymous memory a save leaves, as it is and with descriptions and metrics made in Python; and how
many objects one description leaks.
"""

import argparse
import contextlib
import ctypes
import gc
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import tensorstore
from absl import logging as absl_logging

from naturel_jax.checkpoints.checkpoint import Checkpoints
from tfds_naturel.common import cli

WARM_UP = 40  # saves; later ones find memory that earlier ones have left
ARRAYS = 90  # about as many as a tiny model has with its moments


def memory() -> float:
    """KB of anonymous memory, after returning to the system what the allocator keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return float(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def objects() -> int:
    """Blocks that Python has allocated: about one for each object."""
    gc.collect()
    return sys.getallocatedblocks()


def left(act: Callable[[int], object], times: int) -> str:
    """What each call of ``act`` leaves, of ``times`` after the warm-up."""
    for n in range(WARM_UP):
        act(n)
    objects_before, memory_before = objects(), memory()
    for n in range(WARM_UP, WARM_UP + times):
        act(n)
    grown = (memory() - memory_before) / times
    return f"{(objects() - objects_before) / times:.1f} objects, {grown:.1f} KB"


def saves(times: int) -> str:
    """What each save of small arrays leaves."""
    arrays = {"params": {f"{n}": jnp.ones((64, 64)) for n in range(ARRAYS)}}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, keep=2)
        result = left(lambda step: checkpoints.save(step, arrays, {"step": step}, wait=True), times)
        checkpoints.close()
    return result


@contextlib.contextmanager
def nothing_lost() -> Iterator[None]:
    """Descriptions of folders made in Python, and no metrics: nothing for TensorStore to leak. For local folders."""
    with (
        mock.patch.object(tensorstore, "experimental_collect_matching_metrics", lambda *_: []),
        mock.patch.object(tensorstore.KvStore.Spec, "to_json", lambda spec: {"driver": "file", "path": spec.path}),
    ):
        yield


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=200)
    options = parser.parse_args(arguments)
    absl_logging.set_verbosity(absl_logging.ERROR)
    spec = tensorstore.KvStore.Spec({"driver": "file", "path": "/some/folder/"})
    print(f"the description of a folder leaves {left(lambda _: spec.to_json(), 2000)}")
    print(f"a save of {ARRAYS} arrays leaves {saves(options.saves)}")
    with nothing_lost():
        print(f"a save without descriptions and metrics from TensorStore leaves {saves(options.saves)}")


if __name__ == "__main__":
    cli.run(main)
