"""A pool of small images in tar files is embedded, with three kills, and mined by one process, by two with a share each
and by Beam; then embedding-reader and autofaiss open it.

    python -m proofs.pool --model run:runs/negclip_sp_scenes --images 200000 --readers .venv-readers/bin/python

The images are those of a drawn world. ``--readers``: a Python with ``autofaiss 'numpy<2' 'pyarrow<23'``, which need
another NumPy. Needs the extras ``mine`` and ``beam``.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from naturel_jax.data.items import prepared
from tests.helpers.record_files import tar_member
from tfds_naturel.common import cli
from tfds_naturel.naturel import Naturel, scenes
from tfds_naturel.scenes.scene import CONFIGS

SHARD = 10_000  # images of a tar file
KILLS = (0.2, 0.5, 0.8)  # of the parts are done
BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"
READ = """
import sys, numpy as np
from autofaiss import build_index
from embedding_reader import EmbeddingReader
reader = EmbeddingReader("img_emb", "parquet_npy", metadata_folder="metadata", meta_columns=["image_path"])
blocks = list(reader(batch_size=50_000, show_progress=False))
z_ND, names = np.concatenate([z for z, _ in blocks]), [name for _, rows in blocks for name in rows["image_path"]]
assert len(z_ND) == len(names) == len(set(names)) == int(sys.argv[1]), (z_ND.shape, len(set(names)))
index, _ = build_index(z_ND, save_on_disk=False, max_index_memory_usage="1GB", verbose=40)
assert index.ntotal == len(names)
print(f"embedding-reader: {len(names):,} images, each once; autofaiss: {type(index).__name__} of {index.ntotal:,}")
"""


def write(folder: Path, count: int) -> Path:
    """Draws a world of ``count`` training images, and writes them to tar files; returns the dataset's folder."""
    config = dataclasses.replace(CONFIGS["scenes"], name="pool", sizes=(count, 40, 40, 40))
    builder = Naturel(config=scenes(config), data_dir=os.fspath(folder))
    builder.download_and_prepare()
    records = prepared.open_split(builder.data_path, "train").records
    (folder / "tars").mkdir()
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"tars/{start // SHARD:04}.tar", "w") as tar:
            for n in range(start, min(start + SHARD, count)):
                data = prepared.read_image(records, n)
                tar_member(tar, f"{prepared.to_str(records.value(n, 'image_id'))}.jpg", data)
    return Path(builder.data_path)


def start(module: str, *flags: object) -> subprocess.Popen[bytes]:
    """A process of a command."""
    return subprocess.Popen([sys.executable, "-m", f"naturel_jax.{module}", *map(str, flags)])


def finish(*processes: subprocess.Popen[bytes]) -> None:
    """Waits for commands that must succeed."""
    if codes := [code for process in processes if (code := process.wait())]:
        raise RuntimeError(f"{processes[0].args}: exit codes {codes}")


def embed(model: str, folder: Path, count: int, rows: int) -> None:
    """Embeds the tar files; kills the process three times. What was done then is not written again."""
    flags = ("--model", model, "--source", f"webdataset:{folder}/tars/*.tar", "--out", folder / "pool", "--rows", rows)
    parts = sum(-(-min(SHARD, count - first) // rows) for first in range(0, count, SHARD))
    written: dict[Path, int] = {}
    for share in KILLS:
        process = start("embed", *flags)
        while len(list(folder.glob("pool/done/*.json"))) < share * parts and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"the process ended before {share:.0%} of {parts} parts were done")
        written |= {path: path.stat().st_mtime_ns for path in folder.glob("pool/done/*.json")}
        print(f"killed with {len(written)} of about {parts} parts done", flush=True)
    finish(start("embed", *flags))
    if again := [path.name for path, at in written.items() if path.stat().st_mtime_ns != at]:
        raise RuntimeError(f"parts that were done were written again: {again}")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as for naturel-embed")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=2_000, help="rows of a part")
    parser.add_argument("--readers", required=True, help="a Python with autofaiss and embedding-reader")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder, clock = Path(temporary), time.monotonic()
        dataset = write(folder, options.images)
        print(f"{options.images:,} images drawn in {time.monotonic() - clock:.0f} s", flush=True)
        clock = time.monotonic()
        embed(options.model, folder, options.images, options.rows)
        print(f"embedded in {time.monotonic() - clock:.0f} s", flush=True)
        ways: dict[str, list[tuple[str, ...]]] = {
            "one": [()], "shares": [("--share", "0/2"), ("--share", "1/2")], "beam": [("--beam", BEAM)],
        }  # fmt: skip
        for name, processes in ways.items():
            clock = time.monotonic()
            flags = ("--dataset", dataset, "--pool", folder / "pool", "--out", folder / f"{name}.parquet")
            finish(*[start("mine", *flags, *own) for own in processes])
            print(f"mined ({name}) in {time.monotonic() - clock:.0f} s", flush=True)
        for suffix in ("parquet", "parquet.json"):
            if len({(folder / f"{name}.{suffix}").read_bytes() for name in ways}) > 1:
                raise RuntimeError(f"the files *.{suffix} of {', '.join(ways)} differ")
        print(f"{', '.join(ways)}: the same files")
        readers = [os.path.abspath(options.readers), "-c", READ, str(options.images)]
        subprocess.run(readers, cwd=folder / "pool", check=True)


if __name__ == "__main__":
    cli.run(main)
