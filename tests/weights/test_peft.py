"""LoRA adapters in PEFT's format: ours in a process that has only PEFT and transformers, and PEFT's here."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from huggingface_hub import metadata_load

from naturel_jax import config as c
from naturel_jax import convert, weights
from naturel_jax.checkpoints.checkpoint_meta import make_meta
from naturel_jax.config.versions import to_json
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models import adapters
from naturel_jax.training.start import make_start
from naturel_jax.weights import export, verify
from naturel_jax.weights.tables import flatten
from tests.helpers import hub_server
from tests.helpers.model_files import assert_same, inputs, random_adapter, tiny
from tests.helpers.worlds import write_checkpoints
from tfds_naturel.common.errors import UserError

SCRIPT = Path(__file__).parents[1] / "helpers" / "peft_process.py"
EVERYWHERE = (".*",)
PRESETS = {"clip": "tiny-clip", "siglip": "tiny-siglip"}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "visual_projection", "text_projection"]


def saved_base(folder: Path, family: str, seed: int = 0) -> str:
    export.save(folder, *tiny(PRESETS[family], seed), form="hf")
    return os.fspath(folder)


def saved_run(folder: Path, family: str, base: str, init: str = "", **fields: Any) -> str:
    """The checkpoint of a run, as if it had trained adapters of ``base`` to random values, and the logit scale."""
    config, params, processor = tiny(PRESETS[family])
    options = c.Adapter(**{"rank": 3, "alpha": 6.0, "targets": EVERYWHERE} | fields)
    tree = random_adapter(params, options)
    tree |= {name: params[name] + np.float32(0.1) for name in params if name.startswith("logit_")}
    adapter = weights.Adapter(tree, options, base, adapters.digest(params))
    recipe = to_json(c.Config(name="tuned", init=init or base, adapter=options))
    meta = make_meta(recipe, config, processor, adapter=adapter.meta())
    write_checkpoints(folder, {5: jax.device_put(tree)}, meta)
    return f"run:{folder}"


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[str, str, Path]:
    """A base, a run of adapters, and the folder that ``naturel-convert`` makes of it."""
    home = tmp_path_factory.mktemp("clip")
    base = saved_base(home / "base", "clip")
    source = saved_run(home / "run", "clip", base)
    convert.main([source, str(home / "adapter"), "--to", "peft"])
    return base, source, home / "adapter"


def unit_outputs(source: str, pixels: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    config, params, _ = weights.load(source)
    zimg_ID, ztxt_UD = verify.embeddings(config, params, pixels, tokens)
    logits_IU = np.exp(params["logit_scale"]) * zimg_ID @ ztxt_UD.T + params.get("logit_bias", 0.0)
    return {"images": zimg_ID, "texts": ztxt_UD, "logits": logits_IU}


@pytest.mark.slow
def test_adapters_leave_for_and_arrive_from_peft(tmp_path):
    """Embeddings to 1e-5, in both directions: CLIP and SigLIP, plain and rank-stabilized, all layers or PEFT's choice;
    what PEFT has trained can be trained on."""
    jobs = []
    for family, rslora in (("clip", False), ("siglip", True)):
        config = tiny(PRESETS[family]).config
        pixels, tokens = inputs(config)
        np.savez(tmp_path / f"{family}.npz", pixels=pixels.transpose(0, 3, 1, 2), tokens=tokens)
        base = saved_base(tmp_path / f"{family}_base", family)
        source = saved_run(tmp_path / f"{family}_run", family, base, rslora=rslora)
        convert.main([source, str(tmp_path / f"{family}_ours"), "--to", "peft"])
        common = {"base": base, "inputs": str(tmp_path / f"{family}.npz")}
        jobs.append({"name": f"{family}_ours", "adapter": str(tmp_path / f"{family}_ours"), **common})
        options = {"r": 4, "lora_alpha": 6, "use_rslora": not rslora, "target_modules": ["q_proj", "v_proj", "fc1"]}
        jobs.append(
            {"name": f"{family}_theirs", "adapter": str(tmp_path / f"{family}_theirs"), "train": options, **common}
        )
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, SCRIPT, tmp_path / "jobs.json", tmp_path / "out.npz"], check=True)
    theirs = np.load(tmp_path / "out.npz")
    for job in jobs:
        pixels, tokens = inputs(tiny(PRESETS[job["name"].split("_")[0]]).config)
        plain, ours = (unit_outputs(source, pixels, tokens) for source in (job["base"], job["adapter"]))
        for name in ("images", "texts", "logits"):
            tolerance = 1e-5 if name != "logits" else 1e-5 * np.exp(2.6)
            expected = theirs[f"{job['name']}/{name}"]
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance, err_msg=f"{job['name']} {name}")
            assert np.abs(plain[name] - expected).max() > 1e-3, "the adapter does something"
    for family in PRESETS:  # the run itself, merged
        pixels, tokens = inputs(tiny(PRESETS[family]).config)
        merged = unit_outputs(f"run:{tmp_path}/{family}_run", pixels, tokens)
        np.testing.assert_allclose(merged["texts"], theirs[f"{family}_ours/texts"], rtol=0, atol=1e-5)

    folder, mesh = tmp_path / "siglip_theirs", make_mesh({"data": 1}, jax.devices()[:1])
    chosen = {"rank": 4, "alpha": 6.0, "targets": (".*/attn/(query|value)", ".*/mlp/up")}
    config = c.Config(init=os.fspath(folder), adapter=c.Adapter(**chosen))
    start = make_start(config, config.init, epath.Path(tmp_path), ["a source"], mesh)
    assert start.adapter.base == os.fspath(tmp_path / "siglip_base")
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.text_model.encoder.layers.1.self_attn.v_proj.lora_A.weight"
    query = start.trained["text"]["transformer"]["blocks"]["attn"]["value"]["lora_a"][1]
    np.testing.assert_array_equal(query, tensors[key].T)
    buffers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves((start.params, start.trained))}
    assert len(buffers) == len(jax.tree.leaves((start.params, start.trained))), "a step donates each of them once"
    for field, value in (("rank", 8), ("alpha", 8.0), ("rslora", True)):
        other = dataclasses.replace(config, adapter=dataclasses.replace(config.adapter, **{field: value}))
        with pytest.raises(UserError, match=rf"config\.adapter\.{field} is {value}.*, but the adapter .*theirs has"):
            make_start(other, config.init, epath.Path(tmp_path), ["a source"], mesh)
    other = dataclasses.replace(config, adapter=dataclasses.replace(config.adapter, targets=(".*/attn/query",)))
    with pytest.raises(UserError, match=r"config\.adapter\.targets and the adapter .* differ in .*attn/value.*"):
        make_start(other, config.init, epath.Path(tmp_path), ["a source"], mesh)


def test_the_folder_is_read_back_as_it_was(clip):
    base, source, folder = clip
    (_, before), (loaded, after) = weights.unmerged(source), weights.unmerged(str(folder))
    assert after.base == base and after.digest == before.digest == adapters.digest(loaded.params)
    for path, value in flatten(before.params).items():
        np.testing.assert_array_equal(flatten(after.params)[path], value, err_msg=path)
    assert after.options.scale == before.options.scale == 2.0
    fields = json.loads((folder / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == base and fields["r"] == 3 and fields["lora_alpha"] == 6
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) < 200_000
    card = metadata_load(folder / "README.md")
    assert card["library_name"] == "peft" and "PeftModel" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_an_adapter_goes_to_the_hub_with_a_card_and_comes_back(clip, tmp_path):
    """One command names the base's copy on the hub, and uploads; then only the adapter's few files and the base are
    downloaded."""
    base, source, _ = clip
    hub, token, out = hub_server.Hub(tokens={"hf_secret": ("owner",)}), {"HF_TOKEN": "hf_secret"}, str(tmp_path / "out")
    hub.add("owner/base", Path(base))
    arguments = [source, out, "--to", "peft", "--base", "hf:owner/base", "--push", "owner/lora"]
    code = (
        f"from naturel_jax import convert, weights; convert.main({arguments}); "
        "(_, adapter) = weights.unmerged('hf:owner/lora'); print(adapter.base, adapter.options.rank, adapter.digest)"
    )
    with hub_server.serve(hub):
        environment = hub.environment(tmp_path / "cache", **token)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"hf:owner/base 3 {adapters.digest(tiny('tiny-clip').params)}"
    pushed = hub.repositories["owner/lora"]
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
    assert "adapter_model.safetensors" in pushed and "model.safetensors" not in pushed
    card = pushed["README.md"].decode()
    assert "library_name: peft" in card and "base_model: owner/base" in card and "LoRA of rank 3, alpha 6" in card


def test_a_base_beside_the_run_is_found_from_anywhere(tmp_path, monkeypatch):
    """Also where a run goes on with the adapters of the run beside it, and where all have been moved."""
    home, other = tmp_path / "home", tmp_path / "other"
    export.save(home / "base", *tiny("tiny-clip"), form="run")
    base = f"run:{home}/base"
    saved_run(home / "first", "clip", base, init="base:base")
    saved_run(home / "second", "clip", base, init="base:first")
    monkeypatch.chdir(tmp_path)
    assert [weights.unmerged(f"run:home/{name}")[1].base for name in ("first", "second")] == [base, base]
    home.rename(other)
    assert weights.unmerged("run:other/first")[1].base == f"run:{other}/base"


def test_another_base_is_refused(clip, tmp_path):
    """By the digest of its parameters, as a run and our folders have it, or because the shapes do not fit."""
    _, source, folder = clip
    other = saved_base(tmp_path / "other", "clip", seed=1)
    with pytest.raises(
        UserError, match=r"an adapter of .*other with parameters of digest \w+, but .*other now has \w+"
    ):
        convert.main([source, str(tmp_path / "out"), "--to", "peft", "--base", other])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    saved_base(tmp_path / "siglip", "siglip")
    for name in ("checksums.json", "processor.json"):  # as in a folder that PEFT has written
        (copy / name).unlink()
    for name, expected in (
        ("other", r"adapter_model\.safetensors: an adapter of .*other with parameters of digest"),
        ("siglip", r"adapter_model\.safetensors: the tensors do not fit the model.* not of this model"),
        ("copy", r"its base .*copy is an adapter itself: merge that first"),
        ("absent", r"adapter_config\.json: base_model_name_or_path is .*absent'; expected a folder that is here"),
    ):
        rewrite(copy, base_model_name_or_path=str(tmp_path / name))
        with pytest.raises(UserError, match=expected):
            weights.load(str(copy))
    rewrite(copy, base_model_name_or_path=str(copy))
    with pytest.raises(UserError, match="is an adapter itself"):
        weights.trained_on(str(copy))


def test_what_is_not_plain_lora_of_these_layers_is_refused_by_name(clip, tmp_path):
    _, _, folder = clip
    fields = json.loads((folder / "adapter_config.json").read_text())
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    query = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    scale, bias = (f"base_model.model.logit_{name}" for name in ("scale", "bias"))
    nested = "(.*.*)*q_proj"
    for change, expected in (
        ({"use_dora": True}, r"adapter_config\.json: use_dora is True; only False is implemented"),
        ({"rank_pattern": {"q_proj": 2}}, r"rank_pattern is \{'q_proj': 2\}; only \{\} is implemented"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa'; only True is implemented"),
        ({"r": 0}, r"adapter_config\.json: r is 0; expected a whole number of at least 1"),
        ({"r": "3"}, r"adapter_config\.json: LoRA\.rank is '3'; expected"),
        ({"r": 2}, r"of the wrong shape: .*lora_A\.weight \[3, 128\] instead of \[2, 128\]"),
        ({"use_hadamard": True}, r"adapter_config\.json: 'use_hadamard' is set, and its meaning is not known here"),
        (
            {query: np.full_like(tensors[query], 3e38)},
            r"lora_A reaches 3e\+38 and lora_B .* in text/tr",
        ),
        ({"lora_alpha": 1e40}, r"scaled by 3\.33e\+39: this may overflow"),
        (
            {"target_modules": [x for x in PROJECTIONS if x != "fc1"]},
            r"has matrices of 6 modules that target_modules of adapter_config\.json does not select, so PEFT leaves "
            r"them out: text_model\.encoder\.layers\.0\.mlp\.fc1, ",
        ),
        ({"exclude_modules": r"vision.*"}, r"has matrices of 24 modules that target_modules .*: vision_model\."),
        ({"target_modules": None}, r"adapter_config\.json: target_modules is None; expected names of modules, or a"),
        ({"target_modules": nested}, r"target_modules is '\(\.\*\.\*\)\*q_proj'; .*at most 3 repetitions or groups"),
        ({"target_modules": "|".join([r"\w+q_proj"] * 33)}, r"a regular expression with less than 32 alternatives"),
        ({scale: np.array(1000, np.float32)}, r"logit_scale is 1000, the logarithm of the logit scale: this overflows"),
        ({scale: np.array(np.nan, np.float32)}, r"NaN or infinity in base_model\.model\.logit_scale"),
        ({scale: np.zeros(2, np.float32)}, r"of the wrong shape: base_model\.model\.logit_scale \[2\] instead of \[\]"),
        ({bias: np.array(-9, np.float32)}, r"1 not of this model: base_model\.model\.logit_bias"),
        ({query: None}, rf"1 missing: {query.replace('.', '[.]')}"),
        ({query.replace("q_proj", "qkv"): tensors[query]}, r"1 not of this model: .*layers\.0\.self_attn\.qkv\.lora_A"),
    ):
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        broken.mkdir()
        told = {name: value for name, value in change.items() if not name.startswith("base_model.")}
        kept = {
            k: v for k, v in (tensors | {k: v for k, v in change.items() if k not in told}).items() if v is not None
        }
        (broken / "adapter_config.json").write_text(json.dumps(fields | told))
        safetensors.numpy.save_file(kept, broken / "adapter_model.safetensors")
        with pytest.raises(UserError, match=expected):
            weights.load(str(broken))
    rewrite(broken, target_modules=PROJECTIONS)
    safetensors.numpy.save_file(tensors, broken / "adapter_model.safetensors")
    assert_same(weights.load(str(broken)).params, weights.load(str(folder)).params)
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        weights.load(str(broken))


def test_what_peft_cannot_hold_is_refused(clip, tmp_path):
    base, source, _ = clip
    out = str(tmp_path / "out")
    for arguments, expected in (
        ([base, out, "--to", "peft"], r"has no adapter to write for PEFT: train one with config\.adapter\.rank"),
        ([source, out, "--to", "peft", "--size", "64"], r"--size changes the base of the adapter"),
        ([source, out, "--base", base], r"--base .* needs --to peft"),
    ):
        with pytest.raises(UserError, match=expected):
            convert.main(arguments)
    run = tmp_path / "base_run"
    export.save(run, *tiny("tiny-clip"), form="run")
    adapted = saved_run(tmp_path / "adapted", "clip", f"run:{run}")
    with pytest.raises(UserError, match=r"base is run:.*base_run, which transformers cannot load: .* with --base"):
        convert.main([adapted, out, "--to", "peft"])
    convert.main([adapted, out, "--to", "peft", "--base", base])
    assert weights.unmerged(out)[1].base == base
