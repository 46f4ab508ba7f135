"""Exports, loaded in the libraries that they are written for."""

import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax import weights
from naturel_jax.weights import export
from tests.helpers.model_files import assert_same, tiny
from tests.helpers.processes import run
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError


def test_half_precision_files_are_read_exactly(tmp_path):
    """float32 represents every float16 and bfloat16 exactly."""
    config, params, processor = tiny("tiny-clip")
    for dtype, kind in (("float16", np.float16), ("bfloat16", jnp.bfloat16)):
        export.save(tmp_path / dtype, config, params, processor, form="hf", dtype=dtype)
        expected = jax.tree.map(lambda x, kind=kind: np.asarray(x).astype(kind).astype(np.float32), params)
        assert_same(weights.load(str(tmp_path / dtype)).params, expected)


def test_all_files_of_an_export_are_for_the_same_users(tmp_path):
    config, params, processor = tiny("tiny-clip")
    export.save(tmp_path / "out", config, params, processor, form="hf")
    (tmp_path / "mine").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "mine").stat().st_mode}


def test_exports_reject_what_a_format_cannot_store(tmp_path):
    config, params, processor = tiny("tiny-clip")
    with pytest.raises(UserError, match="logit_scale has values of up to 1e\\+06, which float16 cannot hold"):
        large = {**params, "logit_scale": np.float32(1e6)}
        export.save(tmp_path / "x", config, large, processor, form="hf", dtype="float16")
    assert not list(tmp_path.iterdir())  # no partial files are left
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="x exists; choose another name"):
        export.save(tmp_path / "x", config, params, processor, form="hf")


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_the_disk(tmp_path):
    """``ulimit -f`` is to a process what a full disk is."""
    code = f"""
import resource
from pathlib import Path
from naturel_jax.weights import export
from tests.helpers.model_files import tiny
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    export.save(Path({os.fspath(tmp_path / "out")!r}), *tiny("tiny-clip"), form="hf")
except OSError as error:
    print(error)
"""
    printed = run([sys.executable, "-c", code], ROOT)
    assert "model.safetensors: " in printed and "File too large" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_loading_does_not_hold_a_second_copy():
    """For ViT-L/14, memory grows by the parameters plus the largest one, which is 0.24 of them."""
    printed = run([sys.executable, "-m", "perf.loading", "clip-l14"], ROOT)
    assert 1 < float(re.search(r"\(([\d.]+) times\)", printed)[1]) < 1.25
