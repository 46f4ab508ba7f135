"""Too little memory ends a command in one line, which names what uses most of it."""

import re
import subprocess
import sys

import pytest

from tests.helpers.worlds import ROOT, data_dir
from tfds_naturel.common import cli

LIMITED = ["sh", "-c", 'ulimit -v "$0" && exec "$@"']

ALLOCATE = """
import jax, jax.numpy as jnp
from tfds_naturel.common import cli
def main(arguments):
    kept = [jnp.zeros((n, 1024)) for n in (1, 300, 2)]
    jax.block_until_ready(jnp.zeros(1 << 46, jnp.uint8))
cli.run(main)
"""


@pytest.mark.slow
def test_largest_array_of_jax_is_named():
    done = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True)
    assert done.returncode == cli.USER_ERROR and "Traceback" not in done.stderr, done.stderr
    assert re.search(r"error: out of memory in .*RESOURCE_EXHAUSTED", done.stderr.splitlines()[-1])
    assert "of addresses, most of them" in done.stderr and "the largest float32[300, 1024]: 0.00123 GB" in done.stderr


@pytest.mark.parametrize("gigabytes", [pytest.param(n, marks=pytest.mark.slow) for n in (1.5, 2.5, 3.3)])
def test_fewer_addresses_than_libraries_reserve_are_refused(gigabytes):
    """Their threads would abort the process, or wait without end for one that cannot start."""
    run = [sys.executable, "-m", "naturel_jax.main", f"--config={ROOT}/tests/helpers/tiny_config.py"]
    done = subprocess.run([*LIMITED, f"{gigabytes * 1e9 // 1024:.0f}", *run], cwd=ROOT, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == cli.USER_ERROR and f"leaves this process {gigabytes} GB of addresses" in line, line


@pytest.mark.proof
@pytest.mark.parametrize("gigabytes", [4.2, 5, 6])
def test_run_that_needs_more_addresses_ends_in_one_line(gigabytes, tmp_path):
    """CLIP ViT-L/14, whose state alone takes 5 GB."""
    run = [sys.executable, "-m", "naturel_jax.main", f"--config={ROOT}/tests/helpers/tiny_config.py"]
    run += [f"--config.data.dir={data_dir()}", "--config.preset=clip-l14", f"--workdir={tmp_path}/run"]
    done = subprocess.run([*LIMITED, f"{gigabytes * 1e9 // 1024:.0f}", *run], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == cli.USER_ERROR and "Traceback" not in done.stderr, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if " error: " in line]
    print(f"seen: {gigabytes:g} GB: {line.partition('error: ')[2][:90]}")
    assert "out of memory in " in line and re.search(
        r"of addresses \(ulimit -v \d+\), most of them \S+: [\d.]+ GB", line
    )
