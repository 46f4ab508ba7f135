"""Building and opening the index of many generated records, and the first batches from it: seconds and memory.

    python -m perf.sources --rows 1e6 --folder build/rows

Each row is a path, a caption of 40 to 80 characters and a negative. All paths lead to the same few JPEGs, so that the
batches do not measure the disk. Memory is that of a process that opens the index and makes batches: its own and the
pages of files that it has mapped.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax import config
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from perf.pipeline import write_images
from tfds_naturel.common import cli

_FILES = 64
_NOUNS = ("cat", "dog", "table", "chair", "bottle", "window", "person", "bicycle", "tree", "bench", "car", "horse")


def write_rows(folder: Path, rows: int) -> Path:
    """A JSONL file of ``rows`` records."""
    path = folder / f"{rows}.jsonl"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(write_images(folder, _FILES)):
        image.rename(folder / f"photo-{n:04}.jpg")
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for first in range(0, rows, 100_000):
            words = rng.integers(len(_NOUNS), size=(100_000, 4)).tolist()
            for n, (a, b, c, d) in enumerate(words[: rows - first], first):
                one, other, rest = _NOUNS[a], _NOUNS[b], f"near a {_NOUNS[c]} and a {_NOUNS[d]}, photo {n}"
                row = {
                    "image": f"photo-{n % _FILES:04}.jpg",
                    "caption": f"a {one} on top of a {other} {rest}",
                    "negative": f"a {other} on top of a {one} {rest}",
                }
                file.write(json.dumps(row) + "\n")
    return path


def memory() -> dict[str, float]:
    """MB that are resident: the process's own, and pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def measure(path: Path, steps: int) -> None:
    """Prints what opening the source, the first batch and more batches take, in this process."""
    base = memory()
    start = time.perf_counter()
    source = datasets.open_source(f"jsonl:{path}", str(path.parent), "train")
    opened = time.perf_counter()
    model = preset("tiny-clip")
    texts = [source.items.texts[n] for n in range(1000)]
    processor = from_scratch(model, texts)
    raw = config.base()
    raw.preset = "tiny-clip"
    raw.data.mixture.main = config.part("rows", "one_pair")
    trained = time.perf_counter()
    pipe = make_pipeline(config.load(raw), [source], model, processor, make_mesh({"data": -1}))
    batches = pipe.batches(0, steps)
    next(batches)
    first = time.perf_counter()
    for _ in batches:
        pass
    end = time.perf_counter()
    print(f"{len(source.items):,} records: opened in {opened - start:.1f} s, first batch {first - trained:.1f} s later")
    print(f"{(steps - 1) * 256 / (end - first):.0f} images/s over {steps - 1} more batches")
    for name, value in memory().items():
        print(f"{name} {value:.0f} MB ({base[name]:.0f} before it was opened)")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--folder", type=Path, default=Path("build/rows"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--opened", action="store_true", help="only measure; the index is there")
    options = parser.parse_args(arguments)
    path = write_rows(options.folder, int(options.rows))
    if options.opened:
        measure(path, options.steps)
        return
    start = time.perf_counter()
    datasets.open_source(f"jsonl:{path}", str(path.parent), "train")
    print(f"index built in {time.perf_counter() - start:.1f} s; peak {memory()['VmHWM']:.0f} MB", flush=True)
    subprocess.run([sys.executable, "-m", "perf.sources", *arguments, "--opened"], check=True)


if __name__ == "__main__":
    cli.run(main)
