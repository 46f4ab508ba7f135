"""Folders written by transformers are read bit for bit."""

import dataclasses
import io
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors
import safetensors.numpy
import tokenizers
import torch
import transformers

from naturel_jax import weights
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.two_tower import Model, normalize
from naturel_jax.weights import processor_files, tables, tensors
from tests.helpers.image_files import photo
from tests.helpers.model_files import (
    CAPTIONS,
    assert_same,
    ending_last,
    inputs,
    save_hf,
    tiny,
    torch_inputs,
    torch_tensors,
)
from tests.helpers.processes import run
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip", "tiny-naflex"])
def test_reads_what_transformers_writes(tmp_path, name):
    config, params, processor = tiny(name)
    got_config, got, got_processor = weights.load(str(save_hf(tmp_path / "model", name)))
    assert got_config == config
    assert_same(got, params)
    # tokenizers parses a unigram's scores to within a unit in the last place, so JSON is not compared.
    expected = dataclasses.replace(processor, tokenizer=got_processor.tokenizer, to_rgb="on_white")
    assert got_processor == expected  # transformers composites transparent images on white
    np.testing.assert_array_equal(got_processor.tokenize(CAPTIONS[:3]), processor.tokenize(CAPTIONS[:3]))


@pytest.mark.parametrize("case", ["an older file beside the newer one", "height, width and a centre crop"])
def test_pixels_are_those_of_transformers(tmp_path, case):
    folder = save_hf(tmp_path / "model", "tiny-clip")
    size = tiny("tiny-clip").config.image.size
    sides = {"height": size, "width": size}
    saved = transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=sides)
    saved.save_pretrained(folder)
    fields = {"image_mean": [0.9, 0.1, 0.1]} if "older" in case else {"size": sides}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": saved.to_dict() | fields}))
    theirs = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    data = photo(90, 60)
    pixels = theirs(PIL.Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    ours = weights.find(str(folder)).processor
    normalized = normalize(ours.image(data)[None], ours.mean, ours.std)[0]
    np.testing.assert_allclose(normalized.transpose(2, 0, 1), pixels, atol=2e-6)


@pytest.mark.parametrize("field", ["image_processor_type", "feature_extractor_type"])
def test_a_size_of_one_number_is_square_where_it_is_in_transformers(tmp_path, field):
    """In files of ViT's class, of either name."""
    folder = save_hf(tmp_path / "model", "tiny-clip")
    path, size = folder / "preprocessor_config.json", tiny("tiny-clip").config.image.size
    fields = {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size}
    path.write_text(json.dumps(fields | {field: "ViTImageProcessor"}))
    theirs = transformers.ViTImageProcessorPil.from_pretrained(folder)
    data = photo(90, 60)
    pixels = theirs(PIL.Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    ours = weights.find(str(folder)).processor.image(data)
    np.testing.assert_allclose(ours.transpose(2, 0, 1) / 127.5 - 1, pixels, atol=2e-6)
    for kind, message in (("Siglip", "nothing is cropped, so Siglip"), ("ConvNext", f"{field} is 'ConvNext")):
        path.write_text(json.dumps(fields | {field: f"{kind}ImageProcessor"}))
        with pytest.raises(UserError, match=message):
            weights.find(str(folder))


def test_reads_what_safetensors_writes(tmp_path, monkeypatch):
    """All dtypes and shapes, and the header once, whatever the number of tensors."""
    shapes = {"matrix": (3, 4), "number": (), "nothing": (0, 2)}
    arrays = {
        f"{name} {np.dtype(dtype).name}": np.random.default_rng(0).normal(size=shape).astype(dtype)
        for name, shape in shapes.items()
        for dtype in (np.float32, np.float16, jnp.bfloat16)
    }
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = tensors.open_safetensors(tmp_path / "model.safetensors")
    monkeypatch.delattr(safetensors, "safe_open")
    assert found.shapes == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        assert found.get(name).dtype == array.dtype and found.get(name).tobytes() == array.tobytes(), name
    os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size - 1)
    with pytest.raises(UserError, match=r"model\.safetensors: .* ends too early"):
        [found.get(name) for name in arrays]


def test_reads_sharded_safetensors(tmp_path):
    folder = save_hf(tmp_path / "model", "tiny-clip", max_shard_size="600KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_same(weights.load(str(folder)).params, tiny("tiny-clip").params)


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_pytorch_bin(tmp_path, zipped):
    """Both formats of torch.save, with the position ids that transformers saved before 4.31."""
    folder = save_hf(tmp_path / "model", "tiny-siglip")
    state = torch_tensors(safetensors.numpy.load_file(folder / "model.safetensors"))
    state["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same(weights.load(str(folder)).params, tiny("tiny-siglip").params)


def older(folder: Path, processor: Processor) -> Path:
    """The tiny CLIP with ``processor``, in whose config.json the end token is 2, as before transformers 4.31. Its
    vocabulary is three times as large as that of the processor."""
    save_hf(folder, "tiny-clip")
    processor_files.write(folder, processor, family_of(tiny("tiny-clip").config))
    (folder / processor_files.OWN).unlink()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_older_clip_with_an_enlarged_vocabulary_pools_where_transformers_does(tmp_path):
    folder = older(tmp_path / "model", ending_last(tiny("tiny-clip").processor))
    got, params, processor = weights.load(str(folder))
    texts = [*dict.fromkeys(CAPTIONS), " ".join(CAPTIONS)]
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    encoded = transformers.CLIPTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=got.text.context, return_tensors="pt"
    )
    tokens = processor.tokenize(texts)
    np.testing.assert_array_equal(encoded["input_ids"].numpy(), tokens)
    assert tokens.max() == got.text.eos_id < got.text.vocab - 1
    zcap = theirs.get_text_features(**encoded).pooler_output.detach().numpy()
    zcap /= np.linalg.norm(zcap, axis=-1, keepdims=True)
    np.testing.assert_allclose(Model(got).encode_text(params, tokens), zcap, atol=1e-6)


@pytest.mark.parametrize("added", ["an end token that is not the last", "a further token"])
def test_an_end_token_that_no_text_has_is_refused(added, tmp_path):
    """At the largest id, transformers would pool at whatever word that is."""
    processor = tiny("tiny-clip").processor
    end = 1
    if added == "a further token":
        processor = ending_last(processor)
        tokenizer = tokenizers.Tokenizer.from_str(processor.tokenizer)
        end = tokenizer.get_vocab_size() - 1
        tokenizer.add_tokens(["<photo>"])
        processor = dataclasses.replace(processor, tokenizer=tokenizer.to_str())
    folder = older(tmp_path / "model", processor)
    with pytest.raises(UserError, match=rf"model: the tokenizer ends texts with the token id {end}, .* the id 1023; "):
        weights.find(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = end
    (folder / "config.json").write_text(json.dumps(config))
    assert weights.find(str(folder)).config.text.eos_id == end


def test_reads_the_abbreviated_configs_of_older_files(tmp_path):
    """Files that omit defaults, put a tower's fields in ``*_config_dict``, and declare the end token as 2."""
    folder = older(tmp_path / "model", ending_last(tiny("tiny-clip").processor))
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    del vision["hidden_act"], text["layer_norm_eps"]
    config["vision_config_dict"] = {key: vision.pop(key) for key in ("hidden_size", "intermediate_size", "image_size")}
    config["vision_config_dict"] |= {
        key: vision[key] for key in ("num_hidden_layers", "num_attention_heads", "patch_size")
    }
    (folder / "config.json").write_text(json.dumps(config))
    got, params, _ = weights.load(str(folder))
    assert got.image == tiny("tiny-clip")[0].image
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    pixels, _ = inputs(got)
    zimg = theirs.get_image_features(torch_inputs(pixels, np.zeros((1, 1)))[0]).pooler_output.detach().numpy()
    zimg /= np.linalg.norm(zimg, axis=-1, keepdims=True)
    np.testing.assert_allclose(Model(got).encode_image(params, pixels), zimg, atol=1e-6)


def test_places_each_parameter_with_its_sharding(tmp_path):
    device = jax.devices()[0]
    requested = {}

    def sharding_for(path, shape):
        requested[path] = shape
        return jax.sharding.SingleDeviceSharding(device)

    _, params, _ = weights.load(str(save_hf(tmp_path / "model", "tiny-clip")), sharding_for=sharding_for)
    assert_same(params, tiny("tiny-clip")[1])
    assert requested == {path: leaf.shape for path, leaf in tables.flatten(params).items()}


def test_loading_does_not_import_torch(tmp_path):
    """Neither from its own files nor from safetensors."""
    folders = [save_hf(tmp_path / name, "tiny-clip") for name in ("safetensors", "torch")]
    state = torch_tensors(safetensors.numpy.load_file(folders[1] / "model.safetensors"))
    (folders[1] / "model.safetensors").unlink()
    torch.save(state, folders[1] / "pytorch_model.bin")
    code = "import sys; from naturel_jax import weights\nfor path in sys.argv[1:]: weights.load(path)\n"
    code += "print('torch' in sys.modules)"
    assert run([sys.executable, "-c", code, *folders], ROOT).strip() == "False"
