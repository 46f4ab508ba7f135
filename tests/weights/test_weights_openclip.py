"""Reading OpenAI's files, and reading and writing OpenCLIP's."""

import dataclasses
import io
import json

import jax
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from naturel_jax import weights
from naturel_jax.models.presets import CLIP, PRESETS, preset
from naturel_jax.models.two_tower import Model, TwoTowerConfig, normalize
from naturel_jax.weights import export, openclip, processor_files, tables, verify
from tests.helpers.image_files import photo
from tests.helpers.model_files import (
    CAPTIONS,
    assert_same,
    ending_last,
    inputs,
    openclip_model,
    random_params,
    reduced,
    tiny,
    torch_inputs,
    torch_tensors,
)
from tfds_naturel.common.errors import UserError


def narrow() -> TwoTowerConfig:
    """A CLIP model with OpenAI's vocabulary, heads of 64 and QuickGELU, but narrow towers."""
    image, text = CLIP.tower(128, 2, 2), CLIP.tower(64, 2, 1)
    return CLIP.config(size=64, patch=32, image=image, text=text, embed_dim=32)


def check_in_its_library(source: weights.Foreign, loaded: weights.Loaded) -> None:
    """Checks logits of images of all kinds and odd captions, each library with its own preprocessing."""
    images, captions = verify.example_images(), verify.example_captions()
    found = verify.compare(source.path, source.form, loaded, images, captions)
    assert (found.other_images, found.other_captions) == ((), ())
    assert found.difference < 1e-5 and found.library == f"OpenCLIP {open_clip.__version__}"


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


@pytest.mark.filterwarnings("ignore:`torch.jit")  # the format of OpenAI's files
def test_reads_openai_archives(tmp_path):
    """In half precision like OpenAI's, whose configs are inferred from shapes: heads of 64, QuickGELU, and the last id
    of the vocabulary as end token."""
    config = narrow()
    params = random_params(config)
    state = {key: t.half() for key, t in torch_tensors(tables.write(openclip.TABLES["clip"], params)).items()}
    numbers = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    script = torch.jit.script(OpenAI(state | {key: torch.tensor(value) for key, value in numbers.items()}))
    torch.jit.save(script, tmp_path / "ViT-B-32.pt")
    got_config, got, processor = weights.load(str(tmp_path / "ViT-B-32.pt"))
    assert got_config == config
    assert_same(got, jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), params))
    assert processor.tokenize(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]
    assert (processor.resize, processor.interpolation, processor.size) == ("short", "bicubic", 64)
    assert (processor.centre, processor.to_rgb) == ("round", "last")  # torchvision's CenterCrop, and its order
    source = weights.find(str(tmp_path / "ViT-B-32.pt"))
    check_in_its_library(source, weights.Loaded(got_config, got, processor))


def test_reads_openclip_files_by_preset_name(tmp_path, monkeypatch):
    """NegCLIP's checkpoint is a training state with ``module.`` before every key, and does not specify its GELU."""
    config = narrow()
    monkeypatch.setitem(PRESETS, "negclip-b32", config)
    params = random_params(config)
    state = torch_tensors(tables.write(openclip.TABLES["clip"], params))
    state = {f"module.{key}": value for key, value in state.items()}
    state = {"epoch": 5, "name": "negclip", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(state, tmp_path / "negclip.pth")
    got_config, got, processor = weights.load(f"negclip-b32:{tmp_path}/negclip.pth")
    assert got_config.image.transformer.activation == "quick_gelu"
    assert_same(got, params)
    source = weights.find(f"negclip-b32:{tmp_path}/negclip.pth")
    check_in_its_library(source, weights.Loaded(got_config, got, processor))
    with pytest.raises(UserError, match=r"which GELU.*negclip-b32:negclip\.pth"):
        weights.load(f"{tmp_path}/negclip.pth")


def test_a_clip_with_an_enlarged_vocabulary_pools_where_openclip_does(tmp_path):
    """At the largest id of a text, which is not the last of the vocabulary."""
    config, params, processor = tiny("tiny-clip")
    processor, folder = ending_last(processor), tmp_path / "out"
    end = int(processor.tokenize([""]).max())
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, eos_id=end))
    export.save(folder, config, params, processor, form="openclip")
    fields = json.loads((folder / openclip.CONFIG_FILE).read_text())
    assert fields["model_cfg"]["text_cfg"].pop("pool_type") == "eos"
    (folder / openclip.CONFIG_FILE).write_text(json.dumps(fields))
    for name in (processor_files.OWN, processor_files.CHECKSUMS):
        (folder / name).unlink()
    got_config, got, got_processor = weights.load(str(folder))
    assert got_config == config
    tokens, pixels = got_processor.tokenize(CAPTIONS[:3]), inputs(config)[0]
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        expected = theirs.encode_text(torch_inputs(pixels, tokens)[1], normalize=True)
    np.testing.assert_allclose(Model(got_config).encode_text(got, tokens), expected, atol=1e-6)


@pytest.mark.parametrize("preprocess", [{"mean": [0.5] * 3}, {"mean": None, "resize_mode": "squash"}, None])
def test_what_a_config_leaves_out_is_openclips_default(tmp_path, preprocess):
    """Which is CLIP's, for SigLIP too: a wide image is cropped, not squashed."""
    folder = tmp_path / "out"
    export.save(folder, *tiny("tiny-siglip"), form="openclip")
    fields = json.loads((folder / openclip.CONFIG_FILE).read_text())
    del fields["preprocess_cfg"]
    fields |= {"preprocess_cfg": preprocess} if preprocess else {}
    (folder / openclip.CONFIG_FILE).write_text(json.dumps(fields))
    for name in (processor_files.OWN, processor_files.CHECKSUMS):
        (folder / name).unlink()
    processor, data = weights.load(str(folder)).processor, photo(180, 60)
    ours = normalize(processor.image(data)[None], processor.mean, processor.std)[0]
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    np.testing.assert_allclose(ours.transpose(2, 0, 1), transform(Image.open(io.BytesIO(data))), atol=1e-6)


def test_reads_openclips_own_timm_siglip(tmp_path):
    """The folder of OpenCLIP's ``hf-hub:timm/ViT-B-32-SigLIP2-256`` with fewer blocks: bit-exact parameters, and
    OpenCLIP's own config."""
    config = reduced("siglip2-b32-256")
    params = random_params(config)
    fields = open_clip.get_model_config("ViT-B-32-SigLIP2-256")
    assert openclip.read_config(fields) == preset("siglip2-b32-256")
    model = openclip_model(config, params)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    got = tables.read("x", openclip.TABLES["siglip"], Model(config).shapes(), state.__getitem__, lambda _, a: a)
    assert_same(got, params)


@pytest.mark.parametrize("activation", ["gelu_tanh", pytest.param("gelu", marks=pytest.mark.slow)])
def test_image_towers_without_a_name_in_timm_round_trip(tmp_path, activation):
    """Google's B/16 at 224 pixels has the tanh form, timm's of that name has not."""
    config, _, processor = tiny("tiny-siglip")
    wide = dataclasses.replace(preset("siglip-b16-224").image.transformer, depth=1, activation=activation)
    image = dataclasses.replace(config.image, size=224, patch=16, transformer=wide)
    config = dataclasses.replace(config, image=image, embed_dim=768)
    params = random_params(config)
    export.save(tmp_path / "out", config, params, dataclasses.replace(processor, size=224), form="openclip")
    source = weights.find(str(tmp_path / "out"))
    loaded, _ = source.load(None)
    assert loaded.config == config
    assert_same(loaded.params, params)
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises((OSError, ValueError), match="out"):
        open_clip.create_model(f"local-dir:{tmp_path / 'moved'}")
    check_in_its_library(weights.find(str(tmp_path / "moved")), loaded)


def test_every_preset_can_be_exported_to_both_libraries():
    for name, config in PRESETS.items():
        assert set(export.obstacles(config)) == ({"OpenCLIP"} if config.image.naflex else set()), name
    eps = dataclasses.replace(preset("siglip-b16-224").image.transformer, eps=1e-5)
    config = preset("siglip-b16-224")
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, transformer=eps))
    assert export.obstacles(config).keys() == {"OpenCLIP"}


def test_openclip_folders_clean_texts_like_openclip(tmp_path):
    """OpenCLIP also cleans texts before a tokenizer from the hub, which does not clean them itself."""
    config, params, processor = tiny("tiny-clip")
    export.save(tmp_path / "out", config, params, processor, form="openclip")
    (tmp_path / "out" / processor_files.OWN).unlink()
    texts = ["fish &amp; chips", "it\u2019s  a DOG", *CAPTIONS[:3]]
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
    _, _, got = weights.load(str(tmp_path / "out"))
    assert (got.clean, got.centre) == ("openclip_whitespace", "round")
    np.testing.assert_array_equal(got.tokenize(texts), theirs)
    assert not np.array_equal(processor.tokenize(texts), theirs)
    assert (got.resize, got.interpolation, got.mean) == (processor.resize, processor.interpolation, processor.mean)


@pytest.mark.parametrize("setting", [{"reduction_mask": "shuffle"}, {"strip_sep_token": True}])
def test_tokenizer_settings_of_openclip_that_would_change_ids_are_refused(setting, tmp_path):
    export.save(tmp_path / "out", *tiny("tiny-clip"), form="openclip")
    (tmp_path / "out" / processor_files.OWN).unlink()
    path = tmp_path / "out" / openclip.CONFIG_FILE
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace", **setting}
    path.write_text(json.dumps(config))
    (tmp_path / "out/checksums.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=rf"tokenizer_kwargs\.{next(iter(setting))} is not supported; only clean is"):
        weights.load(str(tmp_path / "out"))


def test_openclip_config_names_its_tokenizer_folder(tmp_path):
    """A hub copy finds its tokenizer by this name, so it must not be the name of the temporary folder."""
    export.save(tmp_path / "owner-model", *tiny("tiny-clip"), form="openclip")
    config = json.loads((tmp_path / "owner-model" / openclip.CONFIG_FILE).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "owner-model"


def biased() -> weights.Loaded:
    """A CLIP that was fine-tuned with the sigmoid loss, and so has a logit bias."""
    config, _, processor = tiny("tiny-clip")
    config = dataclasses.replace(config, init_bias=0.0)
    return weights.Loaded(config, random_params(config), processor)


def test_logits_of_a_clip_with_a_bias_match_openclip(tmp_path):
    """OpenCLIP's own factory and model, in torch: scale * cosine + bias."""
    config, params, processor = biased()
    export.save(tmp_path / "out", config, params, processor, form="openclip")
    pixels, tokens = inputs(config)
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}", output_dict=True).eval()
    images, ids = torch_inputs(pixels, tokens)
    with torch.no_grad():
        out = theirs(images, ids)
        expected = out["logit_scale"] * out["image_features"] @ out["text_features"].T + out["logit_bias"]
    zimg_ID, ztxt_UD = verify.embeddings(config, params, pixels, tokens)
    logits_IU = np.exp(params["logit_scale"]) * zimg_ID @ ztxt_UD.T + params["logit_bias"]
    np.testing.assert_allclose(logits_IU, expected, rtol=1e-5, atol=1e-5)
    assert float(theirs.logit_bias.detach()) == float(params["logit_bias"]) == -3.0


@pytest.mark.parametrize(("form", "prefix"), [("openclip", ""), ("run", "run:")])
def test_clip_with_a_bias_round_trips(tmp_path, form, prefix):
    config, params, processor = biased()
    export.save(tmp_path / "out", config, params, processor, form=form)
    loaded = weights.load(f"{prefix}{tmp_path / 'out'}")
    assert (loaded.config, loaded.processor) == (config, processor_files.as_read(processor, form))
    assert_same(loaded.params, params)


def test_clip_with_a_bias_is_rejected_by_transformers(tmp_path):
    message = "CLIPModel has no logit bias, but this model has one.*--drop_bias.*export to openclip or run"
    with pytest.raises(UserError, match=message):
        export.save(tmp_path / "out", *biased(), form="hf")
    assert not list(tmp_path.iterdir())


def test_siglip_without_a_bias_is_rejected_by_formats_that_need_one(tmp_path):
    config, params, processor = tiny("tiny-siglip")
    config = dataclasses.replace(config, init_bias=None)
    params = {name: leaf for name, leaf in params.items() if name != "logit_bias"}
    with pytest.raises(UserError, match="SiglipModel has a logit bias, but this has none; export to openclip or run"):
        export.save(tmp_path / "out", config, params, processor, form="hf")
