"""What the GPU compiler makes of the towers, without a GPU; needs JAX's CUDA plugin, and not torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.proof
@pytest.mark.parametrize("name", ["clip-b32", "clip-l14", "siglip-b16-224"])
def test_cudnn_is_called_in_both_towers_and_both_passes(name):
    """Image towers of 50, 257 and 196 positions; CLIP's captions have 77 tokens."""
    pytest.importorskip("jax_cuda12_plugin")
    command = [sys.executable, "-m", "tests.helpers.gpu_program", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["__cudnn$fmhaSoftmax"] * 2 + ["__cudnn$fmhaSoftmaxBackward"] * 2
