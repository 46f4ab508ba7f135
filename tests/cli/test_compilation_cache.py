"""Compiled programs are kept on accelerators, in a folder that only the user can write to."""

import os
import stat
import subprocess
import sys

import pytest

# A CPU that says that it is a GPU. The first process compiles, the second finds the program.
PROGRAM = """
import logging, os, sys
import jax
logging.basicConfig(format="%(message)s")
jax.default_backend = lambda: os.environ["BACKEND"]
from naturel_jax.cli import compilation_cache
compilation_cache.enable()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
print(jax.config.jax_compilation_cache_dir or None, len(hits) > 0)
"""


def kept(home, backend="gpu", **environment) -> tuple[str, bool, str]:
    """The folder that JAX uses (None: no cache), whether it found programs there, and what was logged."""
    own = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    own |= {"XDG_CACHE_HOME": str(home), "BACKEND": backend} | environment
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=own, capture_output=True, text=True, check=True)
    folder, found = done.stdout.rsplit(maxsplit=1)
    return folder, found == "True", done.stderr


def test_second_process_compiles_nothing(tmp_path):
    home = tmp_path / "cache"
    folder = home / "naturel_jax" / "compiled"
    folder.parent.mkdir(parents=True)
    folder.parent.chmod(0o775)  # what a umask of 002 leaves
    assert [kept(home)[:2], kept(home)[:2]] == [(str(folder), False), (str(folder), True)]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("writable", ["naturel_jax", "naturel_jax/compiled"])
def test_folder_that_others_can_write_to_is_not_used(tmp_path, writable):
    (tmp_path / "naturel_jax" / "compiled").mkdir(parents=True)
    (tmp_path / writable).chmod(0o777)
    folder, _, log = kept(tmp_path)
    assert folder == "None" and f"others can write to {tmp_path / writable}" in log


def test_environment_and_cpu_decide_first(tmp_path):
    assert kept(tmp_path, backend="cpu")[0] == "None"
    assert kept(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))[0] == str(tmp_path / "own")
    assert kept(tmp_path, JAX_COMPILATION_CACHE_DIR="")[0] == "None"
