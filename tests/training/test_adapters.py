"""Training of LoRA adapters: only they have a gradient and a state; the rest is as in any other run."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import naturel_jax
from naturel_jax import config as c
from naturel_jax import weights
from naturel_jax.data import datasets
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models import adapters
from naturel_jax.planning import estimate
from naturel_jax.training import frozen, memory, run
from naturel_jax.training.start import make_start
from naturel_jax.weights import export
from naturel_jax.weights.tables import flatten
from tests.helpers import tiny_config
from tests.helpers.model_files import tiny
from tests.helpers.worlds import arrays, data_dir, losses
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

LORA = {"adapter.rank": 4, "adapter.alpha": 8.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base") / "siglip"
    export.save(folder, *tiny("tiny-siglip"), form="hf")
    return os.fspath(folder)


def tuned(base: str, **fields) -> c.Config:
    raw = tiny_config.get_config("sigmoid")
    raw.preset, raw.init, raw.data.dir = "", base, os.fspath(data_dir())
    raw.optim.update({"lr": 1e-2, "warmup": "0 steps", "schedule": "constant"})
    raw.eval.benchmarks, raw.eval.during = (), {}
    raw.update_from_flattened_dict(LORA | fields)
    return c.load(raw)


def make_training(config: c.Config, folder, devices: int = 2) -> run.Training:
    mesh = make_mesh(dataclasses.asdict(config.mesh), jax.devices()[:devices])
    sources = datasets.open_sources(config.data)
    start = make_start(config, config.init, epath.Path(folder), sources, mesh)
    return run.make_training(config, start, sources, mesh)


def test_only_adapters_have_a_gradient_and_a_state(base, tmp_path):
    """A checkpoint has none of the base's parameters."""
    training = make_training(tuned(base, **{"optim.ema": 0.5}), tmp_path, devices=1)
    state, loss, batch = training.state, training.loss, training.pipeline.shapes(0)
    lora = {path: x.shape for path, x in flatten(state.params).items() if path.split("/")[-1] in ("lora_a", "lora_b")}
    assert flatten(state.params).keys() - lora.keys() == {"logit_scale", "logit_bias"} and len(lora) == 8
    states = [x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sorted(states) == sorted(2 * [*lora.values()]), "two moments of each, and of nothing else"
    (_, _), gradient = jax.eval_shape(loss.value_and_grad, state.params, batch, state.base)
    assert {path: x.shape for path, x in flatten(gradient).items() if path in lora} == lora
    assert jax.tree.structure(gradient) == jax.tree.structure(state.params) == jax.tree.structure(state.ema)
    assert state.arrays().keys() == {"params", "optimizer", "ema"}
    saved, whole = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (state.arrays(), state.base))
    assert saved < whole / 10


@pytest.mark.slow
def test_a_step_starts_from_the_base_and_is_the_same_in_chunks_on_split_parameters(base, tmp_path):
    """The model that training starts from is the base, bit for bit, and the base stays."""
    plain = make_training(tuned(base), tmp_path)
    fields = {"objective.chunks": 2, "mesh.fsdp": 2, "compute.remat": "full", "objective.exchange": "gather"}
    other = make_training(tuned(base, **fields), tmp_path, devices=4)
    gradients = []
    for training in (plain, other):
        batch, grad = next(training.pipeline.batches(0, 1)), jax.jit(training.loss.value_and_grad)
        gradients.append(jax.device_get(grad(training.state.params, batch, training.state.base)))
    (loss, _), expected = gradients[0]
    (found, _), actual = gradients[1]
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    for path, value in flatten(expected).items():
        np.testing.assert_allclose(flatten(actual)[path], value, rtol=1e-3, atol=1e-5, err_msg=path)

    state, loss, embed = plain.state, plain.loss, jax.jit(plain.loss.embed)
    batch = next(plain.pipeline.batches(0, 1))
    for ours, theirs in zip(embed(loss.merged(state.params, state.base), batch), embed(state.base, batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before = jax.device_get(state.base)
    state, metrics = plain.step(state, batch)
    assert metrics["finite"] and metrics["grad_norm/image"] > 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.base), before)
    assert np.abs(state.params["image"]["transformer"]["blocks"]["attn"]["query"]["lora_b"]).max() > 0


def test_a_tower_without_adapters_is_frozen(base, tmp_path):
    """It has no backward pass, and its embeddings can be kept; those of a tower with adapters cannot."""
    text = {"adapter.targets": ("text/.*",), "data.crop_scale": (1.0, 1.0), "data.cache": "embeddings"}
    config = tuned(base, **text, **{"data.cache_dir": os.fspath(tmp_path)})
    mesh, sources = make_mesh({"data": 1}, jax.devices()[:1]), datasets.open_sources(config.data)
    start = make_start(config, base, epath.Path(tmp_path), sources, mesh)
    training = run.make_training(config, start, sources, mesh)
    depth = start.model.config.image.transformer.depth
    assert (training.loss.model.compute.frozen_image, training.loss.model.compute.frozen_text) == (depth, 0)
    both = tuned(base, **text | {"adapter.targets": (".*/mlp/up",)})
    refused = make_start(both, base, epath.Path(tmp_path), sources, mesh)
    with pytest.raises(UserError, match=r"data\.cache is 'embeddings', but .*adapter\.targets has .* image tower"):
        frozen.embed_sources(both, refused, sources, mesh)


def test_plan_counts_adapters(base):
    """Their state, the base, and the merged kernels with their gradients; frozen weights need no gradient."""
    full, lora = (
        estimate.make_training(tuned(base, **fields), jax.devices()[:1], 1, 24, 1000)
        for fields in ({"adapter.rank": 0}, {})
    )
    size = {name: memory.per_device(x) for name, x in (("full", full.state), ("lora", lora.state))}
    params = memory.per_device(full.state.params)
    assert size["full"] == pytest.approx(3 * params, rel=1e-3) and size["lora"] < 1.2 * params
    batch, model = lora.pipeline.shapes(0), lora.loss.model
    mesh = lora.pipeline.sharding.mesh
    bases, towers = (lora.state.base, None), (model.config.image.transformer, model.config.text.transformer)
    own, alone = (sum(memory.estimate(model, lora.state.params, batch, mesh, 1, base)) for base in bases)
    blocks = sum(tower.depth * 3 * tower.width**2 for tower in towers)
    assert own - alone == 2 * 4 * blocks, "fused kernels of queries, keys and values"
    steps = [training.loss.step_flops(batch) for training in (full, lora)]
    # A block of width D has 12 D^2 weights, of which 2 D^2 have a gradient.
    fixed = 3 * steps[0].forward - steps[1].model
    assert 0.20 < fixed / steps[0].forward < 10 / 12 and steps[0].model == 3 * steps[0].forward


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"adapter.targets": ("image/.*", "vision/.*")}, r"config\.adapter\.targets: 'vision/\.\*' matches no layer"),
        ({"adapter.targets": ()}, r"config\.adapter\.targets is \(\); expected regular expressions"),
        ({"adapter.alpha": 0.0}, r"config\.adapter\.alpha is 0\.0; expected a number above 0"),
        ({"init": "", "preset": "tiny-siglip"}, r"config\.adapter\.rank is 4, but config\.init is ''"),
    ],
)
def test_impossible_adapters_are_refused_by_name(base, tmp_path, fields, expected):
    with pytest.raises(UserError, match=expected):
        make_training(tuned(base, **fields), tmp_path)


def check_continued(base: str, folder: Path, **fields) -> tuple[c.Config, Path]:
    """Whether a run that stops half-way has the bits of one that does not; returns the latter, and its config."""
    at_once, stopped = folder / "at_once", folder / "stopped"
    longer, shorter = (tuned(base, **fields, duration=f"{steps} steps") for steps in (4, 2))
    run.run(longer, at_once)
    run.run(shorter, stopped)
    run.run(longer, stopped)
    expected = arrays(at_once, 4)
    assert not any("kernel" in path for path in expected)
    np.testing.assert_equal(arrays(stopped, 4), expected)
    assert losses(at_once) == losses(stopped) and len(set(losses(at_once).values())) == 4
    return longer, at_once


@pytest.mark.slow
def test_a_run_of_adapters_is_continued_loaded_and_bound_to_its_base(base, tmp_path, monkeypatch):
    """Bits after a stop, with chunks, split parameters, recomputation, the moving average and a cached tower."""
    fields = {"objective.chunks": 2, "mesh.fsdp": 2, "compute.remat": "full", "optim.ema": 0.5, "adapter.rslora": True}
    fields |= {"adapter.targets": ("text/.*",), "data.crop_scale": (1.0, 1.0), "data.cache": "embeddings"}
    fields |= {"data.cache_dir": os.fspath(tmp_path / "cache"), "data.batch_size": 16}
    monkeypatch.chdir(Path(base).parent)
    longer, at_once = check_continued("siglip", tmp_path, **fields)
    expected = arrays(at_once, 4)

    monkeypatch.chdir(tmp_path)  # the base is found from elsewhere
    loaded, adapter = weights.unmerged(f"run:{at_once}")
    assert adapter.options == longer.adapter and adapter.base == base
    np.testing.assert_array_equal(adapter.params["logit_scale"], expected["['ema']['logit_scale']"])
    merged = naturel_jax.load(f"run:{at_once}").params
    scale = 8.0 / 2.0  # alpha / sqrt(rank)
    for path, value in flatten(adapters.merged(loaded.params, adapter.params, scale)).items():
        np.testing.assert_allclose(flatten(jax.device_get(merged))[path], value, atol=1e-6, err_msg=path)

    exported = tmp_path / "merged"
    naturel_jax.load(f"run:{at_once}").save(exported)
    for path, value in flatten(weights.load(os.fspath(exported)).params).items():
        np.testing.assert_array_equal(flatten(jax.device_get(merged))[path], value, err_msg=path)

    config, params, processor = tiny("tiny-siglip", seed=1)
    moved = Path(base).rename(Path(base).with_name("other"))
    try:
        with pytest.raises(UserError, match=r"run:.*at_once is an adapter of .*siglip, which cannot be loaded"):
            weights.load(f"run:{at_once}")
        export.save(Path(base), config, params, processor, form="hf")
        with pytest.raises(UserError, match=r"at_once: an adapter of .*siglip with parameters of digest .* now has"):
            weights.load(f"run:{at_once}")
        monkeypatch.chdir(Path(base).parent)
        with pytest.raises(UserError, match=r"config\.init .*its parameters have the digest .*restore that model"):
            run.run(tuned("siglip", **fields, duration="6 steps"), at_once)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        moved.rename(base)


@pytest.mark.proof
def test_adapters_of_the_other_tower_are_continued_beside_cached_captions(base, tmp_path):
    """With the two-way ring, heads that are split, and only products kept."""
    fields = {"adapter.targets": ("image/.*",), "data.cache_captions": True, "data.cache_dir": os.fspath(tmp_path)}
    fields |= {"objective.exchange": "two_way_ring", "mesh.tensor": 2, "compute.remat": "dots", "optim.ema": 0.5}
    check_continued(base, tmp_path, **fields, **{"data.batch_size": 16})
