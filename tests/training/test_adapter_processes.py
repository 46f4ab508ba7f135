"""``siglip_tp_lora`` as its users run it: trained by the command, by one process or two, exported and evaluated."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import naturel_jax
from naturel_jax import convert, weights
from naturel_jax.data import datasets
from naturel_jax.weights import verify
from tests.helpers.model_files import inputs
from tests.helpers.worlds import ROOT, Run, arrays, continued, data_dir, losses, two_processes

CONFIG = "../../configs/siglip_tp_lora.py:tiny"  # from tests/helpers
LAST, SAVED = 6, 3  # steps
SPLIT = "--config.mesh.fsdp=2"


def flags() -> list[str]:
    short = {"duration": f"{LAST} steps", "checkpoint.every": f"{SAVED} steps", "log_every": "1 steps"}
    short |= {"data.batch_size": 16, "data.dir": data_dir(), "tensorboard": False, "compute.unroll": False}
    short |= {"eval.benchmarks": "('naturel',)", "eval.during": {}, "optim.ema": 0.5}
    short |= {"adapter.targets": "('image/.*/attn/(query|value)', 'text/.*/attn/(query|key|value|out)')"}
    base = {"duration": "4 steps", "data.batch_size": 16, "compute.unroll": False, "tensorboard": False}
    short |= {f"bases.siglip_tiny.{name}": x for name, x in (base | {"eval.benchmarks": (), "eval.during": {}}).items()}
    return [f"--config.{name}={value}" for name, value in short.items()]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The run of one process, beside its base, which it trained first."""
    run = Run(tmp_path_factory.mktemp("runs") / "one", *flags(), "--cpu_devices=2", config=CONFIG)
    run.finish()
    return run.workdir


@pytest.fixture(scope="module")
def base(one) -> str:
    """The runs' base for transformers."""
    convert.main([f"run:{one.parent}/siglip_tiny", str(one.parent / "base")])
    return str(one.parent / "base")


@pytest.mark.slow
def test_a_run_of_adapters_is_exported_to_peft_and_evaluated(one, base, tmp_path):
    """Embeddings and logits in a process that has only PEFT and transformers, the trained logit scale and bias among
    them; scores of the folder are those of the run."""
    adapter = tmp_path / "adapter"
    convert.main([f"run:{one}", str(adapter), "--to", "peft", "--base", base])
    config, trained, _ = weights.load(f"run:{one}")
    pixels, tokens = inputs(config)
    np.savez(tmp_path / "inputs.npz", pixels=pixels.transpose(0, 3, 1, 2), tokens=tokens)
    job = {"name": "run", "base": base, "adapter": str(adapter), "inputs": str(tmp_path / "inputs.npz")}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    script = ROOT / "tests" / "helpers" / "peft_process.py"
    subprocess.run([sys.executable, script, tmp_path / "jobs.json", tmp_path / "out.npz"], check=True)
    theirs, plain = np.load(tmp_path / "out.npz"), weights.load(base).params
    zimg_ID, ztxt_UD = verify.embeddings(config, trained, pixels, tokens)
    np.testing.assert_allclose(theirs["run/images"], zimg_ID, rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs["run/texts"], ztxt_UD, rtol=0, atol=1e-5)
    scale, bias = (trained[name] - plain[name] for name in ("logit_scale", "logit_bias"))
    assert abs(scale) > 1e-4 and abs(bias) > 1e-4
    logits_IU = np.exp(trained["logit_scale"]) * zimg_ID @ ztxt_UD.T + trained["logit_bias"]
    np.testing.assert_allclose(theirs["run/logits"], logits_IU, rtol=0, atol=1e-5 * np.exp(2.4))

    scores = json.loads((one / "scores.json").read_text())["scores"]
    tiny = datasets.directory(str(data_dir()), "naturel/tiny")
    found = naturel_jax.evaluate(naturel_jax.load(adapter), "naturel", tiny)
    assert found and found == pytest.approx({name: scores[name] for name in found})


@pytest.fixture(scope="module")
def two(one) -> Path:
    """The run of two processes that split the base between them, which they find beside the run."""
    runs = two_processes(one.parent / "two", *flags(), SPLIT, devices=1, config=CONFIG)
    for run in runs:
        run.finish()
    return runs[0].workdir


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(one, two):
    expected = losses(one)
    assert sorted(expected) == list(range(1, LAST + 1)) and losses(two).keys() == expected.keys()
    np.testing.assert_allclose([*losses(two).values()], [*expected.values()], rtol=1e-6)


@pytest.mark.slow
def test_two_processes_continue_with_the_same_bits(two):
    """Losses, adapters, their moments and their average, after a stop at a checkpoint."""
    workdir = continued(two, two.with_name("continued"), SAVED)
    for run in two_processes(workdir, *flags(), SPLIT, devices=1, config=CONFIG):
        assert f"from step {SAVED}" in run.finish()
    assert losses(workdir) == losses(two) and len(set(losses(two).values())) == LAST
    np.testing.assert_equal(arrays(workdir, LAST), arrays(two, LAST))


@pytest.mark.slow
def test_two_processes_save_their_adapters_once_and_no_frozen_weights(two, base, tmp_path):
    """The checkpoint, whose arrays Orbax divides among the processes, and the export are as large as adapters are."""
    saved = arrays(two, LAST)
    params = {path: x.nbytes for path, x in saved.items() if path.startswith("['params']")}
    assert {path.split("'")[-2] for path in params} == {"lora_a", "lora_b", "logit_scale", "logit_bias"}
    folder = two / "checkpoints" / str(LAST)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = sum(x.nbytes for x in saved.values())  # with two moments and the average
    assert written < 1.2 * needed, "with JSON beside them"
    convert.main([f"run:{two}", str(tmp_path / "adapter"), "--to", "peft", "--base", base])
    exported = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert 1 < exported / sum(params.values()) < 1.1
