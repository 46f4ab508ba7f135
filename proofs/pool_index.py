"""Peak memory while the index of a pool is built and searched, and its recall.

    python -m proofs.pool_index --images 1000000 --memory_gb 4

writes clustered random embeddings of ``--dim`` numbers (float16) to a temporary folder, and builds the index in a
process of its own, whose peak is printed: that of all of its memory, with the pages of mapped files that it has read.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from naturel_jax.evaluators.pool import embedded, index
from tfds_naturel.common import cli

ROWS = 50_000  # of a file
CLUSTERS = 20_000


def write(folder: Path, count: int, dim: int) -> None:
    """A pool whose images are spread around centres, as those of a model are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, dim)).astype(np.float32)
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir()
    for n, start in enumerate(range(0, count, ROWS)):
        rows = min(ROWS, count - start)
        z_ND = centres[rng.integers(CLUSTERS, size=rows)] + 0.7 * rng.standard_normal((rows, dim), np.float32)
        z_ND /= np.linalg.norm(z_ND, axis=1, keepdims=True)
        np.save(folder / f"img_emb/img_emb_{n:04}.npy", z_ND.astype(np.float16))
        names = pa.table({"image_path": [str(start + row) for row in range(rows)]})
        pq.write_table(names, folder / f"metadata/metadata_{n:04}.parquet")


def build(folder: Path, budget: int) -> None:
    """Builds and searches the index; prints what is known of it, and this process's peak of memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    pool = embedded.EmbeddedPool(folder)
    found = index.load_or_build(pool, budget)
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(path.stat().st_size for path in folder.glob(f"{index.NAME}*"))
    print(
        f"{len(pool):,} images of {pool.dim} dimensions: {found.about}; {seconds:.0f} s; {size / 2**30:.2f} GiB on disk"
    )
    print(f"peak {peak / 2**20:.2f} GiB, of which {before / 2**20:.2f} GiB before; budget {budget / 2**30:.2f} GiB")
    start = time.monotonic()
    found.search(pool[np.arange(0, len(pool), len(pool) // 1000)[:1000]], 32)
    print(f"1,000 searches for 32 images, compared with their embeddings: {time.monotonic() - start:.1f} s")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--memory_gb", type=float, default=4.0)
    options = parser.parse_args(arguments)
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), count, options.dim)
            process = multiprocessing.get_context("spawn").Process(
                target=build, args=(Path(folder), int(options.memory_gb * 2**30))
            )
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{count:,} images: the process ended with exit code {process.exitcode}")


if __name__ == "__main__":
    cli.run(main)
