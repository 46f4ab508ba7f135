"""Trains on a published file of NegCLIP's, by its two commands, with drawn photos in place of COCO's.

    python -m proofs.negclip_tsv data/benchmarks/coco/valid_neg_clip.tsv

What is built is compared with the file as Python's ``csv`` reads it.
"""

import argparse
import ast
import csv
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from tests.helpers.open_images_files import photo
from tfds_naturel.common import cli

FOLDER = Path("build/negclip_tsv")
DATASET = FOLDER / "data/naturel/negclip_tsv/4.1.0"


def run(*command: str | Path) -> None:
    print(f"$ {shlex.join(map(str, command))}", flush=True)
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args(arguments).file
    shutil.rmtree(FOLDER, ignore_errors=True)
    with file.open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    (FOLDER / "coco/val2014").mkdir(parents=True, exist_ok=True)
    shutil.copy(file, FOLDER / "coco/train_neg_clip.tsv")
    for n, row in enumerate(rows):
        (FOLDER / row["filepath"]).write_bytes(photo(n))
    run("tfds_naturel.build", "negclip_tsv", "--manual_dir", FOLDER, "--data_dir", FOLDER / "data")
    main_part, workdir = "--config.data.mixture.main", f"--workdir={FOLDER / 'run'}"
    files = [f"{main_part}.dataset=naturel/negclip_tsv", f"{main_part}.hard_images={DATASET / 'hard_images.parquet'}"]
    small = ["--config.init=", "--config.preset=tiny-clip", "--config.eval.benchmarks=()", "--config.eval.during={}"]
    small += ["--config.duration=1 epochs", "--config.optim.warmup=5 steps"]
    run("naturel_jax.main", "--config=negclip", *files, f"--config.data.dir={FOLDER / 'data'}", *small, workdir)

    import tensorflow_datasets as tfds

    foils = sum(len(ast.literal_eval(row["neg_caption"])) for row in rows)
    built = tfds.builder_from_directory(str(DATASET)).as_data_source("train")
    counts = [sum(polarity == 0 for polarity in example["captions"]["polarity"]) for example in built]
    hard = pq.read_table(DATASET / "hard_images.parquet")["negatives"].to_pylist()
    print(
        f"{len(rows):,} rows of {len({row['filepath'] for row in rows}):,} images with {foils:,} foils; built: "
        f"{len(built):,} images with {sum(counts):,} foils, {min(counts)} to {max(counts)} each, and "
        f"{sum(map(len, hard)):,} hard images of {len(hard):,} of them"
    )


if __name__ == "__main__":
    cli.run(main)
