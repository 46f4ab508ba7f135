"""Time and peak host memory of loading a checkpoint, relative to the size of its parameters.

    python -m perf.loading clip-l14

Writes the preset as a Hugging Face folder, then loads it in a fresh process. Reads memory from /proc: Linux only.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from naturel_jax import weights
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import hf, processor_files, tables
from tfds_naturel.common import cli


def write(folder: Path, name: str) -> int:
    """Writes a checkpoint of the preset ``name`` and returns the bytes of its parameters."""
    import safetensors.numpy

    config = preset(name)
    processor = from_scratch(config, ["a cat"])
    config, family = dataclasses.replace(config, text=processor.ends(config.text)), family_of(config)
    shapes = Model(config).shapes()
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    fields = hf.write_config(config, "float32", {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1})
    (folder / "config.json").write_text(json.dumps(fields), "utf-8")
    processor_files.write(folder, processor, family)
    arrays = tables.write(hf.TABLES[family.name], params)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def peak_bytes() -> int:
    """The largest resident size of this process so far; ``getrusage`` would count the parent's too."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return 1024 * int(kilobytes)


def load(folder: str) -> None:
    """Prints the seconds, and the bytes by which the peak exceeds that of the imports and an idle JAX."""
    jax.block_until_ready(jax.numpy.zeros(1))
    before, start = peak_bytes(), time.perf_counter()
    jax.block_until_ready(weights.load(folder).params)
    print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak_bytes() - before}))


def measure(name: str) -> dict[str, float]:
    """Loads the preset ``name``; returns seconds, bytes of peak memory, and bytes of its parameters."""
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), name)
        command = [sys.executable, "-m", "perf.loading", "--child", folder]
        root = Path(__file__).parents[1]
        child = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(child.stdout) | {"parameters": size}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(PRESETS), nargs="?", default="clip-l14")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        return load(args.child)
    result = measure(args.preset)
    print(
        f"{args.preset}: {result['parameters'] / 1e9:.2f} GB of parameters in {result['seconds']:.1f} s; "
        f"memory rose by at most {result['bytes'] / 1e9:.2f} GB ({result['bytes'] / result['parameters']:.2f} times)"
    )


if __name__ == "__main__":
    cli.run(main)
