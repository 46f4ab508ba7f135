"""What checking a checkpoint against its manifest costs: a ViT-B/32 with its optimizer state is saved and restored.

    python -m perf.checkpoint                    # in a temporary folder: 1.8 GB of disk, 4 GB of memory
    python -m perf.checkpoint --preset tiny-clip --folder /mnt/disk

Prints the seconds of a restore without the check, of the check alone, and their ratio: the best of several turns,
with the files in the page cache, where a check costs relatively most (on a slower disk it reads what the restore then
finds in memory).
"""

import argparse
import tempfile
import timeit
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from naturel_jax.checkpoints import manifest
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.checkpoints.restore import read
from naturel_jax.models import presets
from naturel_jax.models.two_tower import Model
from tfds_naturel.common import cli


def measure(preset: str, workdir: epath.Path, turns: int) -> None:
    """Saves, then restores and checks in turns."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=place), Model(presets.preset(preset)).shapes()
    )
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jax.device_put(draw.standard_normal(x.shape, np.float32), place), shapes)
    names = ("params", "mu", "nu")  # Adam keeps two moments of every parameter
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(0, dict.fromkeys(names, params), {}, wait=True)
    checkpoints.close()
    del params
    folder = checkpoints.directory / "0"
    fields = manifest.read(folder)
    assert fields is not None
    size = sum(file["size"] for file in fields["files"].values())
    items = {name: ocp.args.StandardRestore(shapes) for name in names}

    def restore() -> None:
        jax.block_until_ready(read(folder, **items))

    works = (restore, lambda: manifest.check(folder, names))
    whole, check = np.min([[timeit.timeit(work, number=1) for work in works] for _ in range(turns)], axis=0)
    print(f"{preset} with optimizer state: {size / 1e9:.2f} GB in {folder}")
    print(f"restore {whole - check:.3f} s + check {check:.3f} s ({size / check / 1e9:.1f} GB/s)")
    print(f"the check adds {check / (whole - check):.1%} to a restore")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="clip-b32")
    parser.add_argument("--folder", type=Path, help="default: a temporary folder")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options.preset, epath.Path(folder), options.turns)


if __name__ == "__main__":
    cli.run(main)
