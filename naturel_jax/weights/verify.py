"""Compares a checkpoint's embeddings by its own library with ours, to prove that a conversion changed nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from naturel_jax.models.families import family_of
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import openclip, sources, torch_files
from tfds_naturel import extras

Embeddings = tuple[np.ndarray, np.ndarray]
Embed = Callable[[Path, TwoTowerConfig, np.ndarray, np.ndarray], Embeddings]


class Peer(NamedTuple):
    """Another implementation of a format: its name, and ``embed(path, config, pixels, tokens)``."""

    name: str
    embed: Embed


def random_inputs(config: TwoTowerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Four images of noise [4, S, S, 3], float32, and four texts of random tokens [4, L], int32, that end where the
    model needs an end token."""
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((4, config.image.size, config.image.size, 3), np.float32)
    tokens = rng.integers(3, config.text.vocab - 1, (4, config.text.context), np.int32)
    if config.text.eos_id is not None:
        tokens[tokens == config.text.eos_id] = 3
        for row, end in enumerate(rng.integers(1, config.text.context, 4)):
            tokens[row, end:] = config.text.eos_id
    return pixels, tokens


def ours(config: TwoTowerConfig, params: Params, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    """Unit embeddings [4, D] of images and texts."""
    model = Model(config)
    encode_image, encode_text = jax.jit(model.encode_image), jax.jit(model.encode_text)
    return np.asarray(encode_image(params, pixels)), np.asarray(encode_text(params, tokens))


def _transformers(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    torch, transformers = extras.library("torch", "torch"), extras.library("transformers", "torch")
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32, trust_remote_code=False).eval()
    images, ids = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(tokens).long()
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=images)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def _openclip(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    open_clip = extras.library("open_clip", "torch")
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (folder / openclip.CONFIG_FILE).is_file():
        model = open_clip.create_model(f"local-dir:{folder}")
    else:
        fields = openclip.write_config(config)
        fields.pop("custom_text", None)  # an argument of OpenCLIP's factory, not of the class
        model = getattr(open_clip, family_of(config).openclip_class)(**fields)
        open_clip.load_checkpoint(model, str(path))
    return _encoded(model.eval(), pixels, tokens)


def _openai(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    """OpenCLIP's model of these tensors. Its own reader of the file, ``torch.jit.load``, would run the file's code."""
    torch = extras.library("torch", "torch")
    build = extras.library("open_clip.model", "torch").build_model_from_openai_state_dict
    tensors = torch_files.open_torch(path)
    keys = tensors.shapes.keys() - openclip.IGNORED
    state = {key: torch.from_numpy(tensors.get(key).astype(np.float32)) for key in keys}
    return _encoded(build(state, cast_dtype=torch.float32).float(), pixels, tokens)


def _encoded(model: Any, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import torch

    with torch.no_grad():
        zimg = model.encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2), normalize=True)
        ztxt = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    return zimg.numpy(), ztxt.numpy()


def _read_back(prefix: str) -> Embed:
    """For formats whose library cannot be installed here: embeddings by our own reader of the file."""

    def embed(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
        loaded = sources.load(f"{prefix}{path}")
        return ours(loaded.config, loaded.params, pixels, tokens)

    return embed


PEERS = {
    "hf": Peer("transformers", _transformers),
    "openclip": Peer("OpenCLIP", _openclip),
    "openai": Peer("OpenCLIP", _openai),
    "big_vision": Peer("our own reader of big_vision's files", _read_back("")),
    "run": Peer("our own reader of runs", _read_back("run:")),
}


def largest_difference(path: Path, form: str, config: TwoTowerConfig, params: Params) -> float:
    """The largest difference between a coordinate of our unit embeddings and of those that ``PEERS[form]`` computes."""
    pixels, tokens = random_inputs(config)
    pairs = zip(ours(config, params, pixels, tokens), PEERS[form].embed(path, config, pixels, tokens), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
