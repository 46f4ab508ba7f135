"""Embeddings of an exported folder by its own library, beside ours: the proof that a conversion changed nothing."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from naturel_jax import weights
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig

Embeddings = tuple[np.ndarray, np.ndarray]


def random_inputs(config: TwoTowerConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four pictures of noise [4, S, S, 3], float32, and four texts of random words [4, L], int32, that end where the
    family's do."""
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((4, config.image.size, config.image.size, 3), np.float32)
    tokens = rng.integers(3, config.text.vocab - 1, (4, config.text.context), np.int32)
    if config.text.eos_id is not None:
        tokens[tokens == config.text.eos_id] = 3
        for row, end in enumerate(rng.integers(1, config.text.context, 4)):
            tokens[row, end:] = config.text.eos_id
    return pixels, tokens


def ours(config: TwoTowerConfig, params: Params, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    """Unit embeddings of the pictures and texts."""
    model = Model(config)
    encode_image, encode_text = jax.jit(model.encode_image), jax.jit(model.encode_text)
    return np.asarray(encode_image(params, pixels)), np.asarray(encode_text(params, tokens))


def _transformers(folder: Path, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(), pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2)
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def _openclip(folder: Path, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import open_clip
    import torch

    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        zimg = model.encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2), normalize=True)
        ztxt = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    return zimg.numpy(), ztxt.numpy()


def _read_back(folder: Path, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    config, params, _ = weights.load(str(folder))
    return ours(config, params, pixels, tokens)


# big_vision is no package that can be installed; its file is read back by our own reader.
PEERS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Embeddings]] = {
    "hf": _transformers,
    "openclip": _openclip,
    "big_vision": _read_back,
}


def largest_difference(folder: Path, form: str, config: TwoTowerConfig, params: Params) -> float:
    """The largest difference between a coordinate of our unit embeddings and of the exported folder's by its own
    library."""
    pixels, tokens = random_inputs(config)
    pairs = zip(ours(config, params, pixels, tokens), PEERS[form](folder, pixels, tokens), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
