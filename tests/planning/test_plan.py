"""A step compiled for devices that are not there: what it needs, whether it fits, and what ``auto`` remat becomes."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import PartitionSpec

from naturel_jax import config as c
from naturel_jax import plan
from naturel_jax.checkpoints import checkpoint
from naturel_jax.data import datasets
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.devices import hardware
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import PRESETS, preset, published
from naturel_jax.models.transformer import REMAT_POLICIES, Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.planning import compiled, estimate, products
from naturel_jax.training import exchange, memory, run, run_folder, stand_in
from naturel_jax.training.start import make_start
from naturel_jax.weights import runs
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT, data_dir
from tfds_naturel.common.errors import UserError

DEVICES = 8
ROWS, COLUMNS = 16, 128  # of the block of one device
BLOCK = ROWS * COLUMNS * 4


def hlo(function) -> str:
    """The program of ``function`` on the blocks of eight devices."""
    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"))
    return jax.jit(mapped).lower(jnp.zeros((DEVICES * ROWS, COLUMNS))).compile().as_text()


def ring(x):
    def shift(_, x):
        return jnp.sin(jax.lax.ppermute(x, "x", [(d, (d + 1) % DEVICES) for d in range(DEVICES)]))

    return jax.lax.fori_loop(0, 5, shift, x)


@pytest.mark.parametrize(
    ("kind", "devices", "size", "runs", "function"),
    [
        ("all-reduce", DEVICES, BLOCK, 1, lambda x: x * jax.lax.psum(x, "x")),
        ("all-gather", DEVICES, DEVICES * BLOCK, 1, lambda x: jax.lax.all_gather(x, "x").sum(0)),
        ("reduce-scatter", DEVICES, BLOCK // DEVICES, 1, lambda x: jax.lax.psum_scatter(x, "x", tiled=True)),
        ("collective-permute", 0, BLOCK, 5, ring),
    ],
)
def test_collectives_of_a_program(kind, devices, size, runs, function):
    (found,) = compiled.collectives(hlo(function))
    assert (found.kind, found.bytes, found.runs, found.devices) == (kind, size, runs, devices)
    assert found.way == ("0 to 1" if kind == "collective-permute" else "")


# As libtpu's compiler writes programs, shortened.
GROUPS = "replica_groups=mesh['axis_0'=4,'axis_1'=2,'axis_2'=3] {'axis_0','axis_1'}"
TPU = f"""
%condition.8 (wide.param.1: (s32[], f32[16,768])) -> pred[] {{
  %constant.7 = s32[]{{:T(128)}} constant(12)
  ROOT %lt.4 = pred[]{{:T(512)}} compare(%get-tuple-element.2, %constant.7), direction=LT
}}

%body.9 (wide.param.2: (s32[], f32[16,768])) -> (s32[], f32[16,768]) {{
  %all-reduce.6 = (bf16[1,768]{{1,0:T(2,128)(2,1)S(1)}}, /*index=1*/f32[]{{:T(128)}}) all-reduce(%x), {GROUPS}
  %fusion.5 = (bf16[16,768], f32[256,768]) fusion(%z), kind=kOutput, calls=%async_collective_fusion.5
}}

%async_collective_fusion.3 (param_0: f32[768,64]) -> f32[768,512] {{
  %all-gather.9 = f32[768,512]{{1,0:T(8,128)}} all-gather(%param_0), channel_id=4, replica_groups=[1,8]<=[8]
}}

%fused_computation.4 (param_0: f32[32,768]) -> (f32[32,768], f32[256,768], u32[]) {{
  %all-gather.10 = f32[256,768]{{1,0:T(8,128)}} all-gather(%param_0), channel_id=35, replica_groups=[1,8]<=[8]
  ROOT %custom-call.1 = (f32[32,768], f32[256,768], u32[]) custom-call(%all-gather.10), \
custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.5 (param_0: f32[32,768], param_1: f32[256,768]) -> (bf16[16,768], f32[256,768]) {{
  %all-gather.11 = f32[256,768]{{1,0:T(8,128)S(1)}} all-gather(%param_0), channel_id=35, replica_groups=[1,8]<=[8]
}}

%fused_computation.6 (param_0: f32[32,768], param_1: f32[256,768]) -> f32[256,768] {{
  %all-gather.12 = f32[256,768]{{1,0:T(8,128)}} all-gather(%param_0), channel_id=35, replica_groups=[1,8]<=[8]
  ROOT %custom-call.2 = f32[256,768] custom-call(%param_0, %all-gather.12), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main.1 (param.1: f32[16,768]) -> f32[16,768] {{
  %collective-permute-start.7 = (f32[16,768]{{1,0:T(8,128)}}, f32[16,768]{{1,0:T(8,128)S(1)}}, u32[]{{:S(2)}}, \
u32[]{{:S(2)}}) collective-permute-start(%fusion.1), channel_id=9, source_target_pairs={{{{0,1}},{{1,0}}}}
  %collective-permute-done.7 = f32[16,768]{{1,0:T(8,128)S(1)}} collective-permute-done(%collective-permute-start.7)
  %all-reduce-start.2 = (f32[768]{{0:T(1024)}}, s32[2]{{0}}) all-reduce-start(%a), replica_groups={{{{0,1,2,3}}}}
  %fusion.4 = (f32[32,768], f32[256,768], u32[]) fusion(%z), kind=kCustom, calls=%fused_computation.4
  %while.3 = (s32[]{{:T(128)}}, f32[16,768]{{1,0}}) while(%tuple.4), condition=%condition.8, body=%body.9
  %fusion.6 = f32[256,768] fusion(%z), kind=kCustom, calls=%fused_computation.6
  %fusion.3 = f32[768,512]{{1,0:T(8,128)}} fusion(%c), kind=kCustom, calls=%async_collective_fusion.3
}}
"""


def test_collectives_of_a_tpu_program():
    assert compiled.collectives(TPU) == [
        compiled.Collective("collective-permute", 0, 16 * 768 * 4, 1, True, "0 to 1"),
        compiled.Collective("all-reduce", 4, 768 * 4 + 2 * 4, 1, True),
        compiled.Collective("all-gather", 8, 256 * 768 * 4, 1, True),  # one, beside the twelve rounds of the loop
        compiled.Collective("all-reduce", 8, 768 * 2 + 4, 12, False),
        compiled.Collective("all-gather", 8, 768 * 512 * 4, 1, True),
    ]


def test_refusal_of_the_tpu_compiler():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (22.31G) exceeds "
        "available HBM (15.75G)."
    )
    assert compiled.refused(message) == pytest.approx(22.31 * 2**30, rel=1e-9)
    assert compiled.refused("INTERNAL: out of luck (1.00G)") is None


def test_temporaries_of_the_tpu_compiler_are_those_in_the_memory_of_a_chip():
    """Sizes of a program that it compiles for chips of 15.75 GiB, and the bytes that its buffer assignment has."""
    sizes = {"argument": 255328256, "output": 201327104, "alias": 201326592, "temp": 17014943744}
    found = types.SimpleNamespace(
        **{f"{name}_size_in_bytes": size for name, size in sizes.items()}, peak_memory_in_bytes=16889943552
    )
    assert compiled.temporaries(found, "tpu") == pytest.approx(16634708480, rel=1e-4)
    assert compiled.temporaries(found, "gpu") == sizes["temp"] > 15.75 * memory.GIB


def test_roofline_is_the_slowest_part():
    kind = "TPU v5 lite"  # 197 TFLOP/s, 819 GB/s, 4 links of 45 GB/s each way
    reduce = compiled.Collective("all-reduce", 8, 180_000_000, 2, True)
    bound = compiled.roofline(kind, "bfloat16", 197e12 * 3e-3, 819e9 * 2e-3, [reduce])
    assert bound is not None
    assert bound.links == pytest.approx(2 * 2 * (7 / 8) * 1e-3)
    assert (bound.matrix, bound.memory, bound.waiting) == pytest.approx((3e-3, 2e-3, 0))
    assert bound.step == pytest.approx(3.5e-3)
    waiting = compiled.roofline(kind, "bfloat16", 197e12 * 3e-3, 0, [reduce._replace(asynchronous=False)])
    assert waiting is not None and waiting.step == pytest.approx(6.5e-3), "nothing runs while the device waits"
    ring = [compiled.Collective("collective-permute", 0, 45_000_000, 2, True, way) for way in ("0 to 1", "1 to 0")]
    both = compiled.roofline(kind, "bfloat16", 0, 0, ring)
    assert both is not None and both.links == pytest.approx(2e-3), "both directions at once"
    assert compiled.roofline("cpu", "float32", 1, 1, []) is None


def result(needed: float, remat: str) -> dict:
    sizes = {"needed": int(needed * 2**30), "usable": hardware.ACCELERATORS["v5e"].memory, "remat": remat}
    return sizes | {"fits": sizes["needed"] <= sizes["usable"], "device": "TPU v5 lite"}


def test_verdict_says_by_how_much_and_what_to_change():
    assert estimate.verdict(result(6.5, "dots")) == "fits: 9.25 of 15.75 GiB are left"
    text = estimate.verdict(result(24.625, "none"))
    assert text.startswith("does not fit: needs 24.62 of 15.75 GiB. Change config.compute.remat (dots or full), ")
    assert all(field in text for field in ("config.data.batch_size", "config.objective.chunks", "config.mesh.fsdp"))
    assert "remat" not in estimate.verdict(result(24.6, "full"))


# ---- remat = "auto" --------------------------------------------------------------------------------------------------


def test_activations_grow_with_rows_and_shrink_with_recomputation():
    sizes = preset("tiny-clip")
    kept = {name: memory.activations(Model(sizes, Compute(remat=name)), 6, 10, 16) for name in REMAT_POLICIES}
    assert kept["none"] > kept["attention"] > kept["dots"] > kept["full"] > 0
    results = 6 * 17 * 4 + 10 * 16 * 2  # positions of an image or caption, times blocks
    assert kept["attention"] - kept["dots"] == results * 128 * 4, "of that width, in float32"
    assert memory.activations(Model(sizes), 12, 20, 16) == 2 * kept["none"]


@pytest.mark.slow
def test_full_recomputation_keeps_the_input_of_each_block():
    """Two more blocks of the image tower add their inputs, and a smaller share of what one block keeps."""
    sizes, images = preset("tiny-siglip"), 4

    def kept(depth, remat):
        tower = dataclasses.replace(sizes.image.transformer, depth=depth)
        image = dataclasses.replace(sizes.image, transformer=tower)
        return memory.activations(Model(dataclasses.replace(sizes, image=image), Compute(remat=remat)), images, 4, 16)

    block = kept(4, "none") - kept(3, "none")  # all that one block keeps
    depth = sizes.text.transformer.depth  # the shallower tower: its blocks are the larger share
    inputs = images * sizes.image.grid**2 * sizes.image.transformer.width * 4
    assert kept(6, "full") - kept(4, "full") == pytest.approx(2 * (inputs + block / depth), rel=1e-3)


# Steps of eight H100s: preset, images and captions a card, tokens, recomputation, temporaries (GiB) as XLA's compiler
# for GPUs (jax 0.10.2, CUDA 12, ring) found them, parameters and moments (GiB).
COMPILED = [
    ("siglip-b16-224", 64, 256, 64, "none", 25.2, 2.3),
    ("siglip-b16-224", 64, 256, 64, "dots", 5.9, 2.3),
    ("clip-l14", 128, 256, 24, "none", 76.9, 4.8),
    ("clip-l14", 128, 256, 24, "dots", 18.6, 4.8),
]


@pytest.mark.parametrize(("name", "images", "captions", "tokens", "remat", "temporaries", "state"), COMPILED)
def test_estimate_is_near_what_compilers_need(name, images, captions, tokens, remat, temporaries, state):
    """Within the margins that ``auto`` allows, and with its verdict: only L/14 without recomputation does not fit."""
    model = Model(preset(name), Compute("bfloat16", remat))
    parameters = sum(4 * x.size for x in jax.tree.leaves(model.shapes()))
    assert round(3 * parameters / memory.GIB, 1) == state
    estimated = parameters + memory.activations(model, images, captions, tokens)
    margin = memory.MARGINS.get(remat, memory.MARGIN)
    assert estimated / 2 < temporaries * memory.GIB < margin * estimated
    limit = memory.gpu_share() * hardware.find("NVIDIA H100 80GB HBM3").memory
    for needed in (3 * parameters + temporaries * memory.GIB, 3 * parameters + estimated):
        assert (needed <= limit) == ((name, remat) != ("clip-l14", "none"))


@pytest.mark.proof
@pytest.mark.parametrize(("name", "images", "captions", "tokens", "remat", "temporaries", "state"), COMPILED)
def test_gpu_compiler_needs_no_more_than_before(name, images, captions, tokens, remat, temporaries, state, tmp_path):
    pytest.importorskip("jax_cuda12_plugin")
    siglip, clip = ["--config=siglip_tp"], ["--config=negclip_sp", "--config.init=hf:openai/clip-vit-large-patch14"]
    flags = [*(clip if name == "clip-l14" else siglip), "--topology=h100x8", f"--config.data.dir={tmp_path}", "--json"]
    flags += ["--config.objective.exchange=ring", f"--config.compute.remat={remat}", f"--tokens={tokens}"]
    done = command(*flags, f"--config.data.batch_size={8 * images}")
    assert done.returncode in (0, plan.DOES_NOT_FIT), done.stderr
    planned = json.loads(done.stdout)
    rows = planned["rows"]
    assert planned["fits"] == ((name, remat) != ("clip-l14", "none"))
    share = (rows["images"] + rows["captions"]) / (8 * (images + captions))  # a recipe may have a blank image
    assert planned["memory"]["temporaries"] < 1.05 * share * temporaries * memory.GIB
    assert round((planned["memory"]["parameters"] + planned["memory"]["optimizer"]) / memory.GIB, 1) == state


@pytest.fixture(scope="module")
def config() -> c.Config:
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    return c.load(raw)


@pytest.fixture(scope="module")
def training(config) -> run.Training:
    return estimate.make_training(config, jax.devices(), 2, 24, 1000)


def test_auto_is_none_on_a_cpu(training):
    assert training.loss.model.compute.remat == "none"


def test_auto_recomputes_no_more_than_the_memory_asks_for(training, monkeypatch):
    model, state, batch = training.loss.model, training.state, training.pipeline.shapes(0)
    mesh = training.pipeline.sharding.mesh
    fixed = memory.per_device((state, batch))
    needs = {}
    for name in memory.AUTO:
        temporaries = sum(memory.estimate(memory.with_remat(model, name), state.params, batch, mesh, 1))
        needs[name] = fixed + math.ceil(memory.MARGINS.get(name, memory.MARGIN) * temporaries)

    def chosen(limit):
        monkeypatch.setattr(memory, "usable", lambda kind: limit)
        return memory.choose_remat(model, state, batch, mesh, 1)

    for name, needed in needs.items():
        assert chosen(needed) == name
    assert chosen(1) == "full", "nothing fits: the least that can be done"


def test_a_continuation_keeps_what_auto_became(tmp_path):
    chosen = {"remat": "dots", "exchange": "gather"}
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, {"params": {"x": jnp.zeros(3)}}, {"config": {}} | chosen, wait=True)
    checkpoints.close()
    assert run_folder.saved_choices(epath.Path(tmp_path)) == chosen
    assert run_folder.saved_choices(epath.Path(tmp_path / "new")) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_auto_is_kept_in_the_checkpoint_and_by_the_continuation(tmp_path, monkeypatch):
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    raw.duration, raw.optim.warmup, raw.checkpoint.every = "2 steps", "0 steps", "1 steps"
    raw.eval.during, raw.objective.exchange, raw.eval.benchmarks = {}, "auto", ()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "usable", lambda kind: 1)
        patch.setattr(exchange, "choose", lambda *_: "gather")
        run.run(c.load(raw), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "2")  # as if it had been killed before
    (tmp_path / "scores.json").unlink()
    for module, name in ((memory, "choose_remat"), (exchange, "choose")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it is known"))
    run.run(c.load(raw), tmp_path)
    step, meta = runs.read_meta(tmp_path)
    assert (step, meta["remat"], meta["config"]["compute"]["remat"]) == (2, "full", "auto")
    assert (meta["exchange"], meta["config"]["objective"]["exchange"]) == ("gather", "auto")


# ---- The planned step ------------------------------------------------------------------------------------------------


def described(tree) -> list:
    return [(jax.tree_util.keystr(path), x.shape, x.dtype, x.sharding) for path, x in jax.tree.leaves_with_path(tree)]


def test_planned_step_is_the_step_of_the_run(config, training, tmp_path):
    """State and batch have the shapes, dtypes and shardings of those of a run that trains."""
    mesh = make_mesh(dataclasses.asdict(config.mesh))
    sources = datasets.open_sources(config.data)
    start = make_start(config, "", epath.Path(tmp_path), sources, mesh)
    real = run.make_training(config, start, sources, mesh)
    assert described(training.state) == described(real.state)
    batch = next(real.pipeline.batches(0, 1))
    assert described(real.pipeline.shapes(0)) == described(batch)
    assert described(training.pipeline.shapes(0))[0] == described(batch)[0], "images"
    assert training.schedule == real.schedule


def test_products_of_a_step_are_those_of_the_analytic_count(training):
    """Traced on eight devices. The analytic count has no loss, but a gradient of the pixels, which nothing needs."""
    batch = training.pipeline.shapes(0)
    made = products.count(training.step.trace(training.state, batch).jaxpr)
    towers = training.loss.step_flops(batch).computed("none", 1)
    assert made.bfloat16 == 0 and made.flops == pytest.approx(towers, rel=0.05)


def test_products_with_a_bfloat16_factor_and_a_float32_one_are_not_bfloat16():
    def step(x_bf16, x_f32):
        return jax.lax.scan(lambda carry, _: (carry @ carry, x_bf16 @ x_f32), x_bf16, length=3)

    shapes = [jax.ShapeDtypeStruct((4, 4), dtype) for dtype in (jnp.bfloat16, jnp.float32)]
    made = products.count(jax.jit(step).trace(*shapes).jaxpr)
    assert made == (2 * 3 * 2 * 4**3, 3 * 2 * 4**3), "two products of 4 x 4 x 4, three times"


@pytest.mark.slow
def test_plan_of_a_step_on_the_cpu(config, training):
    planned = estimate.plan(config, training, None)
    assert planned["estimate"]["gradients"] == planned["memory"]["parameters"] and planned["compiler_flops"] > 0
    assert 0 < planned["estimate"]["loss"] < planned["estimate"]["activations"]
    assert planned["memory"]["parameters"] == sum(4 * x.size for x in jax.tree.leaves(training.state.params))
    assert planned["memory"]["optimizer"] >= 2 * planned["memory"]["parameters"], "two moments"
    assert planned["fits"] and "at_least" not in planned, "nothing is known about this device"
    kinds = {one["kind"] for one in planned["collectives"]}
    assert {"all-reduce", "collective-permute"} <= kinds, "gradients, and the ring"
    planned = {"name": "tiny", "topology": "cpu"} | json.loads(json.dumps(planned))
    text, other = estimate.to_text(planned), estimate.to_text(planned | {"attention": "splash"})
    assert "attention" not in text and "remat 'none', attention 'splash', exchange 'ring'" in other
    assert "8 x cpu" in text and "memory of each device (GiB)" in text and "0.0% of them of bfloat16 factors" in text


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_plan_of_a_naflex_step_has_the_padded_patches():
    """A batch has a byte for each of 3 colors of 16 x 16 pixels, and two int32 for each grid."""
    raw = tiny_config.get_config("sigmoid")
    raw.preset, raw.data.dir, raw.data.max_patches = "tiny-naflex", "none", 24
    config = c.load(raw)
    training = estimate.make_training(config, jax.devices()[:1], 1, 16, 1000)
    planned = estimate.plan(config, training, None)
    assert (planned["rows"]["images"], planned["rows"]["patches"]) == (16, 24)
    others = memory.per_device(training.pipeline.shapes(0)._replace(images=()))
    assert planned["memory"]["batch"] - others == 16 * (24 * 3 * 16**2 + 2 * 4)
    assert "16 images of 24 patches" in estimate.to_text(planned | {"name": "tiny", "topology": "cpu"})


@pytest.mark.parametrize(
    ("name", "captions", "sentinel"), [("two_pairs", 4, 0), ("single_pair", 2, 1), ("all_pairs", 8, 1)]
)
def test_stand_in_data_makes_the_largest_batch(name, captions, sentinel):
    sizes = preset("tiny-clip")
    parts = [MixturePart(stand_in.source("main", 100).items, recipe(name))]
    processor = stand_in.processor(sizes, 13)
    planner = Planner(parts, processor, batch_size=64, shards=8, seed=0, trim_eos=sizes.text.eos_id)
    batch = planner.plan(0)
    assert len(batch.rows) == 64 + 8 * sentinel
    assert batch.tokens.shape == (64 * captions, 16), "13 tokens, in a multiple of 8"
    assert np.all(batch.caption_labels.mult_U == 1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:openai/clip-vit-base-patch32", "clip-b32"),
        ("hf:openai/clip-vit-large-patch14-336", "clip-l14-336"),
        ("hf:google/siglip-so400m-patch14-384", "siglip-so400m14-384"),
        ("hf:google/siglip2-giant-opt-patch16-384", "siglip2-g16-384"),
        ("hf:google/siglip2-base-patch16-naflex", "siglip2-b16-naflex"),
        ("hf:someone/clip-vit-base-patch32", None),
    ],
)
def test_sizes_of_published_checkpoints_are_known_by_name(source, expected):
    assert published(source) == (PRESETS[expected] if expected else None)


def test_a_config_without_training_has_no_step(config):
    raw = tiny_config.get_config()
    raw.data.mixture = {}
    raw.update({"preset": "", "init": "hf:openai/clip-vit-base-patch32"})
    with pytest.raises(UserError, match=r"config\.data\.mixture is empty"):
        estimate.make_training(c.load(raw), jax.devices(), 1, 24, 1000)


def test_processes_must_divide_devices_and_batch(config):
    with pytest.raises(UserError, match="--processes is 3, which does not divide the 8 devices"):
        estimate.make_training(config, jax.devices(), 3, 24, 1000)
    tensor = dataclasses.replace(config, mesh=c.Mesh(tensor=4))
    with pytest.raises(UserError, match=r"--processes is 4, which does not divide the 2 blocks of a batch"):
        estimate.make_training(tensor, jax.devices(), 4, 24, 1000)


# ---- The command -----------------------------------------------------------------------------------------------------


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "naturel_jax.plan", *flags], cwd=ROOT, capture_output=True, text=True, timeout=900
    )


def test_a_suite_is_refused():
    done = command("--config=configs/demo.py", "--topology=v5e:2x2")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "configs/demo.py holds several runs; plan the config of one of them" in done.stderr


@pytest.mark.proof
def test_tpus_compute_while_captions_travel_both_ways(tmp_path):
    """On a slice where, in listed order, the ring's permutes are synchronous."""
    pytest.importorskip("libtpu")
    flags = ["--config=tests/helpers/tiny_config.py", "--topology=v5e:4x8", f"--config.data.dir={tmp_path}", "--json"]
    done = command(*flags, "--config.objective.exchange=two_way_ring", "--config.data.batch_size=4096")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    permutes = [one for one in planned["collectives"] if one["kind"] == "collective-permute" and one["bytes"] > 4096]
    assert planned["exchange"] == "two_way_ring" and all(one["asynchronous"] for one in permutes)
    assert len({one["way"] for one in permutes}) == 2


@pytest.mark.proof
def test_step_compiles_for_tpus(tmp_path):
    pytest.importorskip("libtpu")
    flags = ["--config=tests/helpers/tiny_config.py", "--topology=v5e:2x2", f"--config.data.dir={tmp_path}", "--json"]
    done = command(*flags, "--price=1", "--config.data.batch_size=4096", "--config.objective.exchange=ring")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["fits"] and planned["dtype"] == "bfloat16" and planned["remat"] == "none"
    assert planned["memory"]["temporaries"] > 0 and planned["images_per_second"] > 0 and planned["cost"] > 0
    assert any(one["kind"] == "collective-permute" and one["asynchronous"] for one in planned["collectives"])
    done = command(*flags[:2], "--config.data.batch_size=65536", "--config.compute.remat=none", *flags[2:])
    assert done.returncode == plan.DOES_NOT_FIT and not json.loads(done.stdout)["fits"]


@pytest.mark.proof
@pytest.mark.parametrize(("attention", "fits"), [("", False), ("splash", True)])
def test_splash_attention_lets_512_pixels_fit_without_recomputation(attention, fits, tmp_path):
    pytest.importorskip("libtpu")
    flags = ["--config=siglip_tp", "--topology=v5e:2x4", f"--config.data.dir={tmp_path}", "--json"]
    flags += ["--config.init=hf:google/siglip2-base-patch16-512", "--config.data.batch_size=64"]
    done = command(*flags, "--config.compute.remat=none", f"--config.compute.attention={attention}")
    assert done.returncode == (0 if fits else plan.DOES_NOT_FIT), done.stderr
    assert json.loads(done.stdout)["fits"] == fits
