"""Exports, loaded in the libraries that they are written for."""

import base64
import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from naturel_jax import weights
from naturel_jax.data.text.processor import Processor, from_scratch
from naturel_jax.models.presets import CLIP, PRESETS, preset
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, normalize
from naturel_jax.weights import export, verify
from tests.helpers.image_files import photo
from tests.helpers.model_files import CAPTIONS, assert_same, random_params, sentencepiece_model, tiny
from tfds_naturel.common.errors import UserError


def our_embeddings(config: TwoTowerConfig, params: Params, processor: Processor, data: list[bytes], texts: list[str]):
    model = Model(config)
    pixels = normalize(np.stack([processor.image(item) for item in data]), processor.mean, processor.std)
    return model.encode_image(params, pixels), model.encode_text(params, processor.tokenize(texts))


@pytest.mark.parametrize("resize", ["short", "square"])
@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_transformers_embeddings_match_ours(tmp_path, name, resize):
    """With AutoProcessor and AutoModel from the exported folder; all processor outputs are passed to the model."""
    config, params, processor = tiny(name)
    processor = dataclasses.replace(processor, resize=resize)
    export.save(tmp_path / "out", config, params, processor, form="hf")
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    data, texts = [photo(160, 120, seed=1), photo(90, 130, seed=2)], ["a cat", "a dog on a chair", CAPTIONS[0] * 3]
    batch = theirs(
        images=[Image.open(io.BytesIO(item)) for item in data],
        text=texts,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()(**batch)
    zimg, ztxt = our_embeddings(config, params, processor, data, texts)
    np.testing.assert_allclose(zimg, out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(ztxt, out.text_embeds, atol=1e-5)


def test_transformers_sentencepiece_embeddings_match_ours(tmp_path):
    """SigLIP as published, with a SentencePiece model and attention to padding."""
    config, params, processor = tiny("tiny-siglip")
    spiece = base64.b64encode(sentencepiece_model(CAPTIONS, 40)).decode()
    processor = dataclasses.replace(processor, tokenizer=spiece, clean="siglip")
    export.save(tmp_path / "out", config, params, processor, form="hf")
    texts = ["a cat", "a dog on a chair"]
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    batch = theirs(text=texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
        expected = torch.nn.functional.normalize(model.get_text_features(**batch).pooler_output)
    ztxt = Model(config).encode_text(params, processor.tokenize(texts))
    np.testing.assert_allclose(ztxt, expected, atol=1e-5)


@pytest.fixture
def mine():
    towers = {"image": CLIP.tower(96, 3, 3), "text": CLIP.tower(64, 1, 2)}
    PRESETS["mine"] = CLIP.config(size=40, patch=8, **towers, embed_dim=48, vocab=500, context=20, eos_id=1)
    yield
    del PRESETS["mine"]


def test_external_preset_is_encoded_and_exported(tmp_path, mine):
    """A new size needs only one entry in a user's file."""
    config = preset("mine")
    params, processor = random_params(config), from_scratch(config, CAPTIONS)
    export.save(tmp_path / "out", config, params, processor, form="hf")
    loaded = weights.load(str(tmp_path / "out"))
    assert (loaded.config, loaded.processor) == (config, processor)
    assert_same(loaded.params, params)
    zimg, ztxt = our_embeddings(config, params, processor, [photo(90, 70)], CAPTIONS[:3])
    assert (zimg.shape, ztxt.shape) == ((1, 48), (3, 48))
    found = verify.compare(tmp_path / "out", "hf", loaded, verify.example_images(), verify.example_captions())
    assert found.difference < 1e-5


def test_half_precision_files_are_read_exactly(tmp_path):
    """float32 represents every float16 and bfloat16 exactly."""
    config, params, processor = tiny("tiny-clip")
    for dtype, kind in (("float16", np.float16), ("bfloat16", jnp.bfloat16)):
        export.save(tmp_path / dtype, config, params, processor, form="hf", dtype=dtype)
        expected = jax.tree.map(lambda x, kind=kind: np.asarray(x).astype(kind).astype(np.float32), params)
        assert_same(weights.load(str(tmp_path / dtype)).params, expected)


def test_exports_reject_what_a_format_cannot_store(tmp_path):
    config, params, processor = tiny("tiny-clip")
    with pytest.raises(UserError, match="big_vision's two-tower model is SigLIP"):
        export.save(tmp_path / "x", config, params, processor, form="big_vision")
    with pytest.raises(UserError, match="logit_scale has values of up to 1e\\+06, which float16 cannot hold"):
        export.save(
            tmp_path / "x",
            config,
            {**params, "logit_scale": np.float32(1e6)},
            processor,
            form="hf",
            dtype="float16",
        )
    with pytest.raises(UserError, match="timm's trunks"):
        export.save(tmp_path / "x", *tiny("tiny-siglip"), form="openclip")
    assert not list(tmp_path.iterdir())  # no partial files are left
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="x exists; choose another name"):
        export.save(tmp_path / "x", config, params, processor, form="hf")


@pytest.mark.slow
def test_loading_does_not_hold_a_second_copy():
    """For ViT-L/14, memory grows by the parameters plus the largest one, not by twice the parameters."""
    script = Path(__file__).parents[2] / "perf" / "loading.py"
    run = subprocess.run([sys.executable, script, "clip-l14"], capture_output=True, text=True, check=True)
    assert 1 < float(re.search(r"\(([\d.]+) times\)", run.stdout).group(1)) < 1.5
