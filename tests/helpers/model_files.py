"""Models with random weights, ours and those of other libraries, and the files they write."""

import dataclasses
import functools
import io
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
import torch
import transformers
from flax import traverse_util

from naturel_jax.config import Adapter
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.models import adapters
from naturel_jax.models.families import family_of
from naturel_jax.models.naflex import Patches
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import hf, openclip, processor_files, tables, verify
from naturel_jax.weights.sources import Loaded

torch.set_num_threads(1)  # on a busy machine, more threads wait for the slowest
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


CAPTIONS = ["the cat is under the table", "a dog on a chair", "a person holds the guitar"] * 20


@functools.cache
def tiny(name: str, seed: int = 0) -> Loaded:
    """The preset ``name`` with random parameters, and a processor of its family trained on ``CAPTIONS``; for NaFlex, it
    has a tokenizer like the published one."""
    config = preset(name)
    family, context = family_of(config), config.text.context
    if config.image.naflex:
        with tempfile.TemporaryDirectory() as folder:
            gemma_tokenizer(Path(folder), CAPTIONS)
            tokenizer = processor_files.tokenizer(Path(folder), family, context)["tokenizer"]
    else:
        tokenizer = train_tokenizer(family.name, CAPTIONS, 300, context)
    processor = Processor(tokenizer, context, config.image.size, **family.pixels)
    return Loaded(config, random_params(config, seed), processor)


def save_hf(folder: Path, name: str, seed: int = 0, **save: Any) -> Path:
    """``tiny(name)`` as written by transformers' ``save_pretrained``, with the processor files but without our own."""
    config, params, processor = tiny(name, seed)
    hf_model(config, params).save_pretrained(folder, **save)
    processor_files.write(folder, processor, family_of(config))
    (folder / processor_files.OWN).unlink()  # as in a folder that was not written by us
    return folder


def ending_last(processor: Processor) -> Processor:
    """CLIP's ``processor`` with the start and end token as the last two ids, as in OpenAI's vocabulary, in place of the
    first two; all other ids are two less."""
    state = json.loads(processor.tokenizer)
    vocab = state["model"]["vocab"]
    new = {word: (n - 2) % len(vocab) for word, n in vocab.items()}
    state["model"]["vocab"] = new
    for token in state["added_tokens"]:
        token["id"] = new[token["content"]]
    for name, token in state["post_processor"]["special_tokens"].items():
        token["ids"] = [new[name]]
    state["padding"]["pad_id"] = new[state["padding"]["pad_token"]]
    return dataclasses.replace(processor, tokenizer=json.dumps(state))


def assert_same(ours: Params, theirs: Params) -> None:
    """Checks that the parameters are equal, bit for bit."""
    ours, theirs = tables.flatten(ours), tables.flatten(theirs)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def sentencepiece_model(texts: Iterable[str], vocab: int) -> bytes:
    """A SentencePiece model with SigLIP's c4-en settings: unigram, pad 0, end 1, unknown 2, no start."""
    model = io.BytesIO()
    settings = {"vocab_size": vocab, "model_type": "unigram", "hard_vocab_limit": False, "minloglevel": 2}
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **settings, **ids)
    return model.getvalue()


def random_params(config: TwoTowerConfig, seed: int = 0) -> Params:
    """Random parameters without neutral values: a zero bias or unit scale would hide one that is read from the wrong
    place."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.startswith("logit_"):
            return np.float32({"logit_scale": 2.5, "logit_bias": -3.0}[path])
        noise = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            return noise * (0.7 * config.image.transformer.width**-0.5)
        return noise * 0.05 + (1.0 if path.endswith("/scale") else 0.0)

    flat = {path: jnp.asarray(draw(path, leaf.shape)) for path, leaf in tables.flatten(Model(config).shapes()).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def random_adapter(params: Params, options: Adapter) -> Params:
    """Random adapters of the layers of ``params`` that ``options`` names, neither half of them zero."""
    rng = np.random.default_rng(0)
    shapes = adapters.shapes(params, options.rank, options.targets)
    return jax.tree.map(lambda x: np.float32(0.1 * rng.standard_normal(x.shape)), shapes)


def with_blocks(config: TwoTowerConfig, **fields: Any) -> TwoTowerConfig:
    """``config`` with these fields in the transformers of both towers."""
    image, text = (
        dataclasses.replace(tower, transformer=dataclasses.replace(tower.transformer, **fields))
        for tower in (config.image, config.text)
    )
    return dataclasses.replace(config, image=image, text=text)


def reduced(name: str) -> TwoTowerConfig:
    """A preset reduced to one block and 300 tokens, with all other shapes unchanged."""
    config = with_blocks(preset(name), depth=1)
    eos_id = None if config.text.eos_id is None else 299
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=300, eos_id=eos_id))


def inputs(config: TwoTowerConfig) -> tuple[Any, np.ndarray]:
    """Two normalized images [I, S, S, 3], or for a NaFlex model grids of 3 x 5 and 4 x 4 with room for 20 patches, and
    the token ids [U, L] of three texts. CLIP's texts end at different positions and are padded with the end token."""
    rng = np.random.default_rng(1)
    pixels: Any = rng.standard_normal((2, config.image.size, config.image.size, 3), np.float32)
    if config.image.naflex:
        grid_I2 = np.array([(3, 5), (4, 4)], np.int32)
        values_IPV = rng.standard_normal((2, 20, 3 * config.image.patch**2), np.float32)
        values_IPV[np.arange(20) >= grid_I2.prod(axis=1)[:, None]] = 0
        pixels = Patches(values_IPV, grid_I2)
    tokens = rng.integers(3, config.text.vocab - 1, (3, config.text.context)).astype(np.int32)
    if (end := config.text.eos_id) is not None:
        tokens[tokens == end] = 5
        for row in range(3):
            tokens[row, 4 + row :] = end
    return pixels, tokens


def torch_inputs(pixels: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(tokens).long()


def hf_model(config: TwoTowerConfig, params: Params) -> torch.nn.Module:
    """The transformers model with these parameters, in float32."""
    family = family_of(config)
    fields = hf.write_config(config, "float32", {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1})
    theirs = getattr(transformers, f"{family.hf_prefix}Config").from_dict(fields)
    model = getattr(transformers, f"{family.hf_prefix}Model")(theirs)
    model.load_state_dict(torch_tensors(tables.write(hf.TABLES[family.name], params)), strict=True)
    return model.eval()


def openclip_model(config: TwoTowerConfig, params: Params) -> torch.nn.Module:
    """The OpenCLIP model with these parameters, in float32."""
    model = verify.openclip_model(config)
    table = openclip.TABLES[family_of(config).name]
    model.load_state_dict(torch_tensors(tables.write(table, params)), strict=True)
    return model.eval()


def torch_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def gemma_tokenizer(folder: Path, texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokenizer files as published with SigLIP 2, which leave lowercasing and the end token to the caller; returns the
    vocabulary and the merges."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    letters = sorted({letter for text in texts for letter in text + text.lower() if not letter.isspace()})
    vocab = {word: n for n, word in enumerate([*words, *letters, "ca", "cat", "▁cat"])}
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    transformers.GemmaTokenizer(vocab=vocab, merges=merges, padding_side="right").save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    fields = json.loads(settings.read_text("utf-8")) | {"add_bos_token": False, "add_eos_token": True}
    settings.write_text(json.dumps(fields), "utf-8")
    return vocab, merges
