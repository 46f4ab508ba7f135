"""What comparing copies from a store with their checksums adds to a start that finds them current.

    python -m perf.copies --megabytes 512 --files 5000

On two cores, 512 MiB in 5,008 files took another 0.10 s, in 16 files 0.05 s: about 1% of the shortest start, 8 s
(``hosts_start``).

Half of the megabytes are in eight large files, half in the others. The store is on loopback, and the copies are in the
page cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from etils import epath

from naturel_jax.storage import object_folders, staging
from tests.helpers import store_servers
from tfds_naturel.common import cli

LARGE, ROUNDS = 8, 5


def write(folder: Path, size: int, files: int) -> None:
    """Writes ``size`` random bytes."""
    random = np.random.default_rng(0)
    for n in range(LARGE + files):
        (folder / f"{n:06}").write_bytes(random.bytes(size // 2 // (LARGE if n < LARGE else files)))


def seconds(url: str, cache_dir: str, checked: bool) -> float:
    """The least time of ``ROUNDS`` in which a start finds all copies current, having compared them before or not."""
    times = []
    for _ in range(ROUNDS):
        if not checked:
            staging._checked.clear()
        start = time.perf_counter()
        staging.stage(url, cache_dir)
        times.append(time.perf_counter() - start)
    return min(times)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--files", type=int, default=5000, help="small files (default: %(default)s)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place, store_servers.serve("gs") as server:
        folder, cache, url = Path(place) / "own", f"{place}/cache", f"{server.url}/copies"
        folder.mkdir()
        write(folder, args.megabytes << 20, args.files)
        with mock.patch.dict(os.environ, server.env):
            object_folders.upload(object_folders.files_in(folder), folder, epath.Path(url))
            staging.stage(url, cache)
            listed = seconds(url, cache, checked=True)
            compared = seconds(url, cache, checked=False) - listed
    print(
        f"{LARGE + args.files:,} files, {args.megabytes:,} MiB: found current in {listed:.2f} s; their checksums take "
        f"another {compared:.2f} s ({args.megabytes / 1024 / compared:.2f} GiB/s)"
    )


if __name__ == "__main__":
    cli.run(main)
