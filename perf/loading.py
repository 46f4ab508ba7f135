"""Time and peak host memory of loading a checkpoint, beside the size of its parameters.

    python perf/loading.py clip-l14

Writes the preset with random weights as a Hugging Face folder, then loads it in a fresh process.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from naturel_jax import weights
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import hf, processor_files, tables


def write(folder: Path, name: str) -> int:
    """A folder of the preset's shapes; returns the bytes of its parameters."""
    import safetensors.numpy

    from naturel_jax.data.processor import Processor, train_tokenizer

    config = preset(name)
    family = family_of(config)
    shapes = Model(config).shapes()
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    fields = hf.write_config(config, "float32", {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1})
    (folder / "config.json").write_text(json.dumps(fields), "utf-8")
    tokenizer = train_tokenizer(family.name, ["a cat"], 300, config.text.context)
    processor = Processor(tokenizer, config.text.context, config.image.size, **family.pixels)
    processor_files.write(folder, processor, family)
    arrays = tables.write(hf.TABLES[family.name], params)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def peak_bytes() -> int:
    """The largest resident size of this process so far (Linux; ``getrusage`` would count the parent's too)."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def load(folder: str) -> None:
    """Prints seconds, and bytes that the peak rose by over what the imports and an idle JAX take."""
    jax.block_until_ready(jax.numpy.zeros(1))
    before, start = peak_bytes(), time.perf_counter()
    _, params, _ = weights.load(folder)
    jax.block_until_ready(params)
    print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak_bytes() - before}))


def measure(name: str) -> dict[str, float]:
    """Seconds, bytes of peak memory and bytes of the parameters of loading the preset ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), name)
        command = [sys.executable, __file__, "--child", folder]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(child.stdout) | {"parameters": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=sorted(PRESETS), nargs="?", default="clip-l14")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return load(args.child)
    result = measure(args.preset)
    print(
        f"{args.preset}: {result['parameters'] / 1e9:.2f} GB of parameters in {result['seconds']:.1f} s; "
        f"memory rose by {result['bytes'] / 1e9:.2f} GB at most ({result['bytes'] / result['parameters']:.2f} times)"
    )


if __name__ == "__main__":
    main()
