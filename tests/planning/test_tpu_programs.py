"""What the TPU compiler makes of a training step, without a TPU; needs libtpu. docs/plan.md states it."""

import json
import subprocess
import sys

import pytest

from tests.helpers.worlds import ROOT

LOSS = "f32 f32 -> f32 highest"
ATTENTION = ["bf16 bf16 -> f32", "bf16 f32 -> f32"]  # logits; gradients of queries and keys


@pytest.mark.proof
@pytest.mark.parametrize(
    ("name", "remat", "embedding"), [("siglip_tp", "dots", "32000,768"), ("negclip_ap", "none", "49408,512")]
)
def test_step_on_tpus_computes_in_bfloat16_and_casts_parameters_once(name, remat, embedding):
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "tests.helpers.tpu_program", name, remat]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["products"] == ["bf16 bf16 -> bf16", *ATTENTION, LOSS]
    assert found["in_loops"] == ["bf16"], "kernels are cast before the loops, and their gradients after them"
    in_float32 = {size for dtype, size in found["summed"] if dtype != "bf16"}
    assert in_float32 == {embedding}, "gradients over all chips; those of one token come from many sequences"
    assert found["updated_at_once"] == found["kernels"], "parameter and both moments in one pass"


@pytest.mark.proof
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["siglip2-b16-512", "siglip-so400m14-384", "clip-l14-336"])
def test_evaluators_embed_long_sequences_with_splash_attention(name, dtype):
    """Evaluators ask for products in full, which the compiler of kernels refuses for bfloat16."""
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "tests.helpers.splash_program", name, dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
