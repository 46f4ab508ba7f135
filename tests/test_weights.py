"""Weights in and out: bit-exact round trips, the peers' own loaders on what we write, big_vision's own numbers, and
broken files."""

import dataclasses
import http.server
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import safetensors.numpy
import torch
import transformers
from model_files import hf_model, inputs, openclip_model, random_params, reduced, torch_inputs, torch_tensors

from naturel_jax import weights
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.models.presets import CLIP_TOWER, SIGLIP_TOWER, clip, preset, siglip, tower
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.weights import big_vision, export, hf, openclip, processor_files, tables, verify

CAPTIONS = ["the cat is under the table", "a dog on a chair", "a person holds the guitar"] * 20


@pytest.fixture(scope="module")
def models():
    """name -> (config, parameters, processor), random."""
    result = {}
    for name in ("tiny-clip", "tiny-siglip"):
        config = preset(name)
        kind = name.removeprefix("tiny-")
        tokenizer = train_tokenizer(kind, CAPTIONS, 300, config.text.context)
        image = processor_files.IMAGE_DEFAULTS[kind]
        processor = Processor(tokenizer, config.text.context, config.image.size, **image)
        result[name] = config, random_params(config), processor
    return result


def assert_same(ours, theirs) -> None:
    ours, theirs = tables.flatten(ours), tables.flatten(theirs)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def tensors(kind: str, table: dict, params) -> dict[str, np.ndarray]:
    return tables.write(table[kind], params)


@pytest.fixture
def hf_folder(models, tmp_path):
    """A function from a model's name to a folder with its safetensors, as transformers' own ``save_pretrained``
    writes it, and a processor."""

    def build(name: str, **save) -> Path:
        config, params, processor = models[name]
        folder = tmp_path / f"{name}-hf"
        hf_model(config, params).save_pretrained(folder, **save)
        processor_files.write(folder, processor, name.removeprefix("tiny-"))
        (folder / processor_files.OWN).unlink()  # a stranger's folder has none
        return folder

    return build


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_reads_what_transformers_writes(models, hf_folder, name):
    config, params, processor = models[name]
    got_config, got, got_processor = weights.load(str(hf_folder(name)))
    assert got_config == config
    assert_same(got, params)
    # tokenizers parses a unigram's scores to within a unit in the last place, so JSON is not compared.
    assert dataclasses.replace(got_processor, tokenizer=processor.tokenizer) == processor
    np.testing.assert_array_equal(got_processor.tokenize(CAPTIONS[:3]), processor.tokenize(CAPTIONS[:3]))


def test_reads_sharded_safetensors(models, hf_folder):
    folder = hf_folder("tiny-clip", max_shard_size="600KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_same(weights.load(str(folder))[1], models["tiny-clip"][1])


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_pytorch_bin(models, hf_folder, zipped):
    """Both forms of torch.save, with the position ids that transformers wrote before 4.31."""
    folder = hf_folder("tiny-siglip")
    state = torch_tensors(safetensors.numpy.load_file(folder / "model.safetensors"))
    state["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same(weights.load(str(folder))[1], models["tiny-siglip"][1])


def test_reads_the_short_configs_of_older_files(hf_folder, models):
    """Files that leave out defaults, repeat a tower as ``*_config_dict`` and call the end token 2."""
    folder = hf_folder("tiny-clip")
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    del vision["hidden_act"], text["layer_norm_eps"]
    text["eos_token_id"] = 2
    config["vision_config_dict"] = {key: vision.pop(key) for key in ("hidden_size", "intermediate_size", "image_size")}
    config["vision_config_dict"] |= {
        key: vision[key] for key in ("num_hidden_layers", "num_attention_heads", "patch_size")
    }
    (folder / "config.json").write_text(json.dumps(config))
    got, params, _ = weights.load(str(folder))
    assert got.text.eos_id == got.text.vocab - 1
    assert got.image == models["tiny-clip"][0].image
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    pixels, _ = inputs(got)
    zimg = theirs.get_image_features(torch_inputs(pixels, np.zeros((1, 1)))[0]).pooler_output.detach().numpy()
    zimg /= np.linalg.norm(zimg, axis=-1, keepdims=True)
    np.testing.assert_allclose(Model(got).encode_image(params, pixels), zimg, atol=1e-6)


def test_reads_siglip2_naflex_at_its_own_grid(models, tmp_path):
    """``Siglip2Model`` on a square picture of exactly its number of patches computes what its weights compute here."""
    config, params, processor = models["tiny-siglip"]
    fields = hf.write_config(config, "float32", {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1})
    vision = fields["vision_config"]
    vision["num_patches"] = config.image.grid**2
    del vision["image_size"], vision["model_type"], fields["text_config"]["model_type"]
    model = transformers.Siglip2Model(
        transformers.Siglip2Config(text_config=fields["text_config"], vision_config=vision)
    ).eval()
    model.load_state_dict(torch_tensors(tables.write(hf.TABLES["siglip2"], params)))
    model.save_pretrained(tmp_path / "naflex")
    processor_files.write(tmp_path / "naflex", processor, "siglip")
    (tmp_path / "naflex" / processor_files.OWN).unlink()
    transformers.Siglip2ImageProcessor(
        patch_size=config.image.patch, max_num_patches=config.image.grid**2
    ).save_pretrained(tmp_path / "naflex")
    got_config, got, got_processor = weights.load(str(tmp_path / "naflex"))
    assert got_config == config
    assert (got_processor.resize, got_processor.interpolation, got_processor.size) == ("square", "bilinear", 48)
    pixels, tokens = inputs(config)
    i, (g, p) = len(pixels), (config.image.grid, config.image.patch)
    patches = pixels.reshape(i, g, p, g, p, 3).swapaxes(2, 3).reshape(i, g * g, -1)
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(patches),
            pixel_attention_mask=torch.ones(i, g * g, dtype=torch.long),
            spatial_shapes=torch.tensor([[g, g]] * i),
        )
    zimg, ztxt = verify.ours(config, got, pixels, tokens)
    np.testing.assert_allclose(zimg, out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(ztxt, out.text_embeds, atol=1e-5)


def narrow() -> TwoTowerConfig:
    """A CLIP model with OpenAI's vocabulary, heads of 64 and QuickGELU, but narrow towers."""
    image, text = tower(128, 2, 2, **CLIP_TOWER), tower(64, 2, 1, **CLIP_TOWER)
    return clip(size=64, patch=32, image=image, text=text, embed_dim=32)


class OpenAI(torch.nn.Module):
    """A TorchScript archive as OpenAI published its models: half precision, with three numbers among the tensors."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        for key, value in state.items():
            module, names = self, key.split(".")
            for name in names[:-1]:
                if not hasattr(module, name):
                    module.add_module(name, torch.nn.Module())
                module = getattr(module, name)
            module.register_buffer(names[-1], value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_reads_openai_archives(tmp_path):
    """Halved like OpenAI's, whose configs follow from shapes: heads of 64, QuickGELU, the vocabulary's last id at
    the end."""
    config = narrow()
    params = random_params(config)
    state = {key: t.half() for key, t in torch_tensors(tensors("clip", openclip.TABLES, params)).items()}
    numbers = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    script = torch.jit.script(OpenAI(state | {key: torch.tensor(value) for key, value in numbers.items()}))
    torch.jit.save(script, tmp_path / "ViT-B-32.pt")
    got_config, got, processor = weights.load(str(tmp_path / "ViT-B-32.pt"))
    assert got_config == config
    assert_same(got, jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), params))
    assert processor.tokenize(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]
    assert (processor.resize, processor.interpolation, processor.size) == ("short", "bicubic", 64)
    assert processor.centre == "round"  # torchvision's CenterCrop
    found = weights.find(str(tmp_path / "ViT-B-32.pt"))
    assert verify.largest_difference(found.path, found.form, got_config, got) < 2e-6


@pytest.mark.parametrize("wrap", ["plain", "state_dict"])
def test_reads_openclip_files_by_the_name_of_their_preset(tmp_path, wrap, monkeypatch):
    """NegCLIP's checkpoint is a training state with ``module.`` before every key, and says nothing about its GELU."""
    config = narrow()
    monkeypatch.setitem(weights.PRESETS, "negclip-b32", config)
    params = random_params(config)
    state = torch_tensors(tensors("clip", openclip.TABLES, params))
    if wrap != "plain":
        state = {f"module.{key}": value for key, value in state.items()}
    if wrap == "state_dict":
        state = {"epoch": 5, "name": "negclip", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(state, tmp_path / "negclip.pth")
    got_config, got, _ = weights.load(f"negclip-b32:{tmp_path}/negclip.pth")
    assert got_config.image.transformer.activation == "quick_gelu"
    assert_same(got, params)
    found = weights.find(f"negclip-b32:{tmp_path}/negclip.pth")
    assert verify.largest_difference(found.path, found.form, got_config, got) < 2e-6
    with pytest.raises(ValueError, match=r"with which GELU.*negclip-b32:negclip\.pth"):
        weights.load(f"{tmp_path}/negclip.pth")


def test_reads_openclips_own_timm_siglip(tmp_path, models):
    """The folder that OpenCLIP's ``hf-hub:timm/ViT-B-32-SigLIP2-256`` names, with fewer blocks: exact bits, and
    OpenCLIP's own config."""
    config = reduced("siglip2-b32-256", vocab=300)
    params = random_params(config)
    fields = open_clip.get_model_config("ViT-B-32-SigLIP2-256")
    assert openclip.read_config(fields) == preset("siglip2-b32-256")
    model = openclip_model(config, params)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    found = tables.read("x", openclip.TABLES["siglip"], Model(config).shapes(), state.__getitem__, lambda _, a: a)
    assert_same(found, params)


def test_openclip_to_hf_is_exact(models, tmp_path):
    """OpenCLIP -> ours -> Hugging Face: the tensors transformers holds are those OpenCLIP held."""
    config, params, processor = models["tiny-clip"]
    export.save(tmp_path / "openclip", config, params, processor, form="openclip", facts={})
    ours = weights.load(str(tmp_path / "openclip"))
    export.save(tmp_path / "hf", *ours, form="hf", facts={})
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").state_dict()
    opened = open_clip.create_model(f"local-dir:{tmp_path / 'openclip'}").state_dict()
    np.testing.assert_array_equal(opened["visual.proj"].T, theirs["visual_projection.weight"])
    fused = torch.cat([theirs[f"text_model.encoder.layers.1.self_attn.{n}_proj.weight"] for n in "qkv"])
    np.testing.assert_array_equal(opened["transformer.resblocks.1.attn.in_proj_weight"], fused)
    assert_same(weights.load(str(tmp_path / "hf"))[1], params)


@pytest.mark.parametrize("scan", [False, True])
def test_big_vision_files_of_both_layouts(models, tmp_path, scan):
    config, params, processor = models["tiny-siglip"]
    arrays = tables.write(big_vision.table(scan, scan), params)
    arrays = {f"params/{key}": value for key, value in arrays.items()} | {"opt/count": np.zeros(())}
    np.savez(tmp_path / "siglip.npz", **arrays)
    processor_files.write(tmp_path, processor, "siglip")
    got_config, got, got_processor = weights.load(str(tmp_path / "siglip.npz"))
    assert (got_config, got_processor) == (config, processor)
    assert_same(got, params)


def test_big_vision_bfloat16(models, tmp_path):
    """NumPy stores bfloat16 as two bytes without a type, and so does big_vision."""
    config, params, processor = models["tiny-siglip"]
    export.save(tmp_path / "out", config, params, processor, form="big_vision", dtype="bfloat16", facts={})
    with np.load(tmp_path / "out" / "checkpoint.npz") as file:
        assert file["params/t"].dtype == np.dtype("V2")
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    assert_same(weights.load(str(tmp_path / "out"))[1], expected)


BIG_VISION_IMAGE = np.array(
    [
        [0.11195295, -0.006534021, -0.018191071, 0.029667806, 0.020444866, -0.0627423],
        [0.011981149, 0.000227378, 0.03249202, 0.09321985, 0.09823823, 0.049186293],
    ]
)
BIG_VISION_TEXT = np.array(
    [
        [-0.14916869, 0.015897151, 0.024604892, 0.007277898, -0.0560227, 0.043816257],
        [-0.005582331, 0.16845354, -0.16595617, 0.039525688, -0.00978515, 0.08038787],
        [-0.019071536, -0.026674215, -0.107937954, -0.02812198, -0.07025805, 0.08661539],
    ]
)


def test_big_vision_computes_the_same():
    """First coordinates of what big_vision's own ``two_towers.Model`` (commit 0127fb6) computed from this table's
    tensors and these inputs."""
    towers = {name: tower(128, depth, 4, **SIGLIP_TOWER) for name, depth in (("image", 4), ("text", 3))}
    config = siglip(size=48, patch=8, vocab=1024, context=32, **towers)
    zimg, ztxt = verify.ours(config, random_params(config), *inputs(config))
    np.testing.assert_allclose(zimg[:, :6], BIG_VISION_IMAGE, atol=2e-7, rtol=1e-5)
    np.testing.assert_allclose(ztxt[:, :6], BIG_VISION_TEXT, atol=2e-7, rtol=1e-5)


def test_big_vision_so400m_is_prepared_at_384_pixels():
    """27 patches of 14 are 378 pixels; the published model was trained at 384, of which a strided convolution drops
    six."""
    config = preset("siglip-so400m14-384")
    shapes = tables.foreign_shapes(big_vision.table(False, False), Model(config).shapes())
    assert big_vision.read_shapes(shapes) == config


@pytest.mark.parametrize(("name", "form"), [("tiny-clip", "hf"), ("tiny-siglip", "hf"), ("tiny-clip", "openclip")])
def test_exports_agree_in_their_own_library(models, tmp_path, name, form):
    config, params, processor = models[name]
    export.save(tmp_path / "out", config, params, processor, form=form, facts={"Recipe": {"steps": 3}})
    assert verify.largest_difference(tmp_path / "out", form, config, params) < 2e-6
    assert weights.load(str(tmp_path / "out"))[2] == processor
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ") and '"steps": 3' in card


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_auto_processor_of_an_export(models, tmp_path, name):
    config, params, processor = models[name]
    export.save(tmp_path / "out", config, params, processor, form="hf", facts={})
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    texts = [*CAPTIONS[:3], "", "A Cat, and: the DOG!", "under " * 60]
    ids = theirs(text=texts, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(processor.tokenize(texts), ids)
    assert theirs.image_processor.resample == {"tiny-clip": 3, "tiny-siglip": 2}[name]
    assert isinstance(transformers.AutoModel.from_pretrained(tmp_path / "out"), transformers.PreTrainedModel)


def test_openclip_reads_the_exports_tokenizer(models, tmp_path):
    config, params, processor = models["tiny-clip"]
    export.save(tmp_path / "out", config, params, processor, form="openclip", facts={})
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(CAPTIONS[:3])
    np.testing.assert_array_equal(processor.tokenize(CAPTIONS[:3]), ids)
    assert model.visual.image_size == (48, 48) and transform.transforms[0].size == 48


def test_places_each_parameter_with_its_sharding(models, hf_folder):
    device = jax.devices()[0]
    asked = {}

    def sharding_for(path, shape):
        asked[path] = shape
        return jax.sharding.SingleDeviceSharding(device)

    _, params, _ = weights.load(str(hf_folder("tiny-clip")), sharding_for=sharding_for)
    assert_same(params, models["tiny-clip"][1])
    assert asked == {path: leaf.shape for path, leaf in tables.flatten(params).items()}


def test_safetensors_need_no_torch(hf_folder):
    source = str(hf_folder("tiny-clip"))
    code = f"import sys; from naturel_jax import weights; weights.load({source!r}); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_hub_names_come_from_the_cache_without_a_network(hf_folder, tmp_path, monkeypatch):
    """The cache's true layout: refs, a snapshot per commit; in huggingface_hub's offline mode."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(hf_folder("tiny-clip"), repository / "snapshots" / commit)
    code = "from naturel_jax import weights; c, _, _ = weights.load('hf:owner/tiny'); print(c.image.size)"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "48"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"hf:owner/absent: could not be fetched.*HF_HUB_OFFLINE=1"):
        weights.load("hf:owner/absent")


# Broken checkpoints. Each edits a good folder; the error must name the file or key and say what is wrong.


def edit_tensors(folder: Path, change) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(folder: Path, name: str, *path, value) -> None:
    content = json.loads((folder / name).read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / name).write_text(json.dumps(content))


def truncate(path: Path, share: float = 0.5) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


def as_torch(folder: Path, obj) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(obj, folder / "pytorch_model.bin")


class Code:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def pickled_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Code()}, file)


def zip_bomb(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * (80 << 20))


def index(weight_map) -> object:
    def build(folder: Path) -> None:
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map(arrays)}))

    return build


def header_claims_too_much(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + data[8:])


BLOCK = "vision_model.encoder.layers.3.mlp.fc1.weight"
BROKEN = {
    "truncated": (
        lambda f: truncate(f / "model.safetensors"),
        r"model\.safetensors: truncated or not a safetensors file",
    ),
    "empty": (lambda f: truncate(f / "model.safetensors", 0), r"model\.safetensors: truncated or not"),
    "header longer than the file": (header_claims_too_much, r"model\.safetensors: truncated or not"),
    "not tensors": (
        lambda f: (f / "model.safetensors").write_text("<html>404</html>"),
        r"truncated or not a safetensors file",
    ),
    "missing projection": (
        lambda f: edit_tensors(f, lambda a: a.pop("text_projection.weight")),
        r"1 missing: text_projection\.weight",
    ),
    "missing block": (
        lambda f: edit_tensors(f, lambda a: [a.pop(key) for key in list(a) if "vision_model.encoder.layers.3." in key]),
        r"16 missing: vision_model\.encoder\.layers\.3\..* and 8 more",
    ),
    "extra block": (
        lambda f: edit_tensors(f, lambda a: a.update({BLOCK.replace("3", "4"): a[BLOCK]})),
        r"1 not of this model: vision_model\.encoder\.layers\.4\.mlp\.fc1\.weight",
    ),
    "wrong shape": (
        lambda f: edit_tensors(f, lambda a: a.update({BLOCK: a[BLOCK][:-1].copy()})),
        r"1 of a wrong shape: vision_model\.encoder\.layers\.3\.mlp\.fc1\.weight \[511, 128\] instead of \[512, 128\]",
    ),
    "NaN": (
        lambda f: edit_tensors(f, lambda a: a[BLOCK].__setitem__((0, 0), np.nan)),
        r"NaN or infinity in vision_model\.encoder\.layers\.3\.mlp\.fc1\.weight",
    ),
    "overflown float16": (
        lambda f: edit_tensors(f, lambda a: a.update({BLOCK: np.full(a[BLOCK].shape, np.inf, np.float16)})),
        r"NaN or infinity in vision_model\.encoder\.layers\.3",
    ),
    "integers": (
        lambda f: edit_tensors(f, lambda a: a.update({BLOCK: a[BLOCK].astype(np.int8)})),
        r"fc1\.weight has dtype I8; expected one of F32, F16, BF16",
    ),
    "another family": (
        lambda f: edit_json(f, "config.json", "model_type", value="blip"),
        r"config\.json: model_type is 'blip'; expected one of \['clip'",
    ),
    "SigLIP's config": (
        lambda f: edit_json(f, "config.json", "model_type", value="siglip"),
        r"missing: .*vision_model\.head|missing: logit_bias",
    ),
    "unknown activation": (
        lambda f: edit_json(f, "config.json", "text_config", "hidden_act", value="relu"),
        r"text_config\.hidden_act is 'relu'; expected one of",
    ),
    "grey pictures": (
        lambda f: edit_json(f, "config.json", "vision_config", "num_channels", value=1),
        r"vision_config\.num_channels is 1; only 3",
    ),
    "negative size": (
        lambda f: edit_json(f, "config.json", "vision_config", "num_hidden_layers", value=-1),
        r"depth -1: expected a whole number",
    ),
    "absurd depth": (
        lambda f: edit_json(f, "config.json", "vision_config", "num_hidden_layers", value=10**9),
        r"depth 1000000000: expected a whole number from 1 to 65536",
    ),
    "config of another shape": (
        lambda f: edit_json(f, "config.json", "vision_config", value=[1]),
        r"config\.json: malformed",
    ),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json: not readable as JSON"),
    "code in a pickle": (
        pickled_code,
        r"pytorch_model\.bin: holds pickled objects other than tensors, which could run code; refused",
    ),
    "zip bomb": (zip_bomb, r"pytorch_model\.bin: .* bytes that unpack to 83,886,080"),
    "torch file of a list": (
        lambda f: as_torch(f, [torch.ones(2)]),
        r"pytorch_model\.bin: holds list, expected a mapping",
    ),
    "truncated torch file": (
        lambda f: (as_torch(f, {"a": torch.ones(9)}), truncate(f / "pytorch_model.bin")),
        r"pytorch_model\.bin: truncated or not a PyTorch file",
    ),
    "index outside the folder": (
        index(lambda a: dict.fromkeys(a, "../model.safetensors")),
        r"'\.\./model\.safetensors' is not in the folder of the index",
    ),
    "index to an absent file": (
        index(lambda a: dict.fromkeys(a, "model-2.safetensors")),
        r"'model-2\.safetensors' is missing; download it again",
    ),
    "index of other keys": (index(lambda a: {"x": "model-1.safetensors"}), r"index and files disagree about"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer; put tokenizer\.json"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json: not a tokenizer"),
    "no image processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        r"preprocessor_config\.json is missing, so how its pictures",
    ),
    "another picture size": (
        lambda f: edit_json(f, "preprocessor_config.json", "crop_size", value=224),
        r"make no picture of the model's 48 pixels",
    ),
    "unknown interpolation": (
        lambda f: edit_json(f, "preprocessor_config.json", "resample", value=0),
        r"resample is 0; expected one of",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"no checkpoint of a known form.*found README",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints_say_what_is_wrong(models, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    export.save(folder, *models["tiny-clip"], form="hf", facts={})
    (folder / processor_files.OWN).unlink()
    breaks, message = BROKEN[kind]
    breaks(folder)
    with pytest.raises(ValueError, match=message):
        weights.load(str(folder))
    assert not (tmp_path / "pwned").exists()


def npz_of(change):
    def build(models, path: Path) -> None:
        arrays = tables.write(big_vision.table(False, False), models["tiny-siglip"][1])
        change(arrays)
        np.savez(path, **arrays)

    return build


def npz_with_lying_header(models, path: Path) -> None:
    npz_of(lambda arrays: None)(models, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["b.npy"] = members["b.npy"].replace(b"(1,)", b"(9,)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npz_bomb(models, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("params/b.npy", b"\0" * (80 << 20))


BROKEN_NPZ = {
    "objects": (
        npz_of(lambda a: a.update({"b": np.array([Code()], object)})),
        r"'b\.npy' holds pickled objects; refused",
    ),
    "lying header": (npz_with_lying_header, r"'b\.npy' has .* bytes, its header says"),
    "zip bomb": (npz_bomb, r"bytes that unpack to 83,886,080"),
    "image tower only": (
        npz_of(lambda a: [a.pop(key) for key in list(a) if key.startswith("txt/")]),
        r"model\.npz: not a SigLIP checkpoint of big_vision: txt/pos_embedding",
    ),
    "truncated": (
        lambda models, path: (npz_of(lambda a: None)(models, path), truncate(path)),
        r"truncated or not a npz file",
    ),
    "positions twice": (
        npz_of(lambda a: a.update({"txt/Encoder_0/pos_embedding": a["txt/pos_embedding"]})),
        r"1 not of this model: txt/Encoder_0/pos_embedding",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_NPZ)
def test_broken_npz_files_say_what_is_wrong(models, tmp_path, kind):
    build, message = BROKEN_NPZ[kind]
    build(models, tmp_path / "model.npz")
    processor_files.write(tmp_path, models["tiny-siglip"][2], "siglip")
    with pytest.raises(ValueError, match=message):
        weights.load(str(tmp_path / "model.npz"))


def test_half_precision_files_are_read_exactly(models, tmp_path):
    """float32 holds every float16 and bfloat16, so these files are no error."""
    config, params, processor = models["tiny-clip"]
    for dtype, kind in (("float16", np.float16), ("bfloat16", jnp.bfloat16)):
        export.save(tmp_path / dtype, config, params, processor, form="hf", dtype=dtype, facts={})
        expected = jax.tree.map(lambda x, kind=kind: np.asarray(x).astype(kind).astype(np.float32), params)
        assert_same(weights.load(str(tmp_path / dtype))[1], expected)


def test_exports_refuse_what_they_cannot_say(models, tmp_path):
    config, params, processor = models["tiny-clip"]
    with pytest.raises(ValueError, match="big_vision's two-tower model is SigLIP"):
        export.save(tmp_path / "x", config, params, processor, form="big_vision", facts={})
    with pytest.raises(ValueError, match="logit_scale has values of up to 1e\\+06, which float16 does not hold"):
        export.save(
            tmp_path / "x",
            config,
            {**params, "logit_scale": np.float32(1e6)},
            processor,
            form="hf",
            dtype="float16",
            facts={},
        )
    with pytest.raises(ValueError, match="timm's trunks"):
        export.save(tmp_path / "x", *models["tiny-siglip"], form="openclip", facts={})
    assert not list(tmp_path.iterdir())  # nothing half-written stays
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="x exists; choose another name"):
        export.save(tmp_path / "x", config, params, processor, form="hf", facts={})


def test_openclip_folders_clean_texts_as_openclip_does(models, tmp_path):
    """OpenCLIP mends texts before a tokenizer from the hub too, which by itself would not."""
    config, params, processor = models["tiny-clip"]
    export.save(tmp_path / "out", config, params, processor, form="openclip", facts={})
    (tmp_path / "out" / processor_files.OWN).unlink()
    texts = ["fish &amp; chips", "it\u2019s  a DOG", *CAPTIONS[:3]]
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
    _, _, got = weights.load(str(tmp_path / "out"))
    assert (got.clean, got.centre) == ("openclip_whitespace", "round")
    np.testing.assert_array_equal(got.tokenize(texts), theirs)
    assert not np.array_equal(processor.tokenize(texts), theirs)
    assert (got.resize, got.interpolation, got.mean) == (processor.resize, processor.interpolation, processor.mean)


@pytest.mark.slow
def test_loading_holds_no_second_copy():
    """ViT-L/14: memory rises by the parameters and the largest of them, not by twice the parameters."""
    script = Path(__file__).parent.parent / "benchmarks" / "loading.py"
    run = subprocess.run([sys.executable, script, "clip-l14"], capture_output=True, text=True, check=True)
    assert 1 < float(re.search(r"\(([\d.]+) times\)", run.stdout).group(1)) < 1.5


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub on this machine: the answers that ``snapshot_download`` asks for, from ``folder``."""

    folder: Path
    asked: list[str]
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.path.startswith("/api/models/owner/tiny/revision/"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            body = json.dumps({"id": "owner/tiny", "sha": self.commit, "siblings": files}).encode()
        elif self.path.startswith(f"/api/models/owner/tiny/tree/{self.commit}"):
            sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
            files = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            body = json.dumps(files).encode()
        elif self.path == f"/owner/tiny/resolve/{self.commit}/{name}" and (self.folder / name).is_file():
            body = (self.folder / name).read_bytes()
            self.asked.append(name)
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for header in (("Content-Length", str(len(body))), ("ETag", f'"{hash(body)}"'), ("X-Repo-Commit", self.commit)):
            self.send_header(*header)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("source", "form", "wanted", "other"),
    [
        ("hf", "hf", "model.safetensors", "pytorch_model.bin"),
        ("hf", "openclip", "open_clip_model.safetensors", "model.safetensors"),  # timm's, of the image tower alone
        ("open_clip", "both", "open_clip_model.safetensors", "model.safetensors"),
    ],
)
def test_hub_fetches_one_format(models, tmp_path, source, form, wanted, other):
    """Of the formats a repository offers one is downloaded, with the small files."""
    Hub.folder, Hub.asked = tmp_path / "repository", []
    export.save(Hub.folder, *models["tiny-clip"], form="hf" if form == "hf" else "openclip", facts={})
    (Hub.folder / other).write_bytes(b"weights that are not wanted")
    if form == "openclip":
        (Hub.folder / "config.json").write_text('{"architecture": "vit_tiny"}')
    if form == "both":
        (Hub.folder / "config.json").write_text('{"model_type": "clip"}')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = f"from naturel_jax import weights; c, _, _ = weights.load('{source}:owner/tiny'); print(c.image.size)"
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_XET": "1",
    }
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    finally:
        server.shutdown()
        server.server_close()
    assert run.stdout.strip() == "48", run.stderr
    assert {wanted, "config.json", "tokenizer.json", "preprocessor_config.json"} <= set(Hub.asked)
    assert other not in Hub.asked
