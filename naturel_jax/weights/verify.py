"""Embeddings of a checkpoint by its own library, beside ours: the proof that a conversion changed nothing."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from naturel_jax import weights
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import hf, openclip

Embeddings = tuple[np.ndarray, np.ndarray]
Peer = Callable[[Path, TwoTowerConfig, np.ndarray, np.ndarray], Embeddings]


def random_inputs(config: TwoTowerConfig, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four pictures of noise [4, S, S, 3], float32, and four texts of random words [4, L], int32, ending as the
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


def _transformers(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    pictures, ids = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(tokens).long()
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pictures)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def _openclip(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import open_clip

    if path.is_dir() or (path.parent / weights.OPENCLIP_CONFIG).is_file():
        model = open_clip.create_model(f"local-dir:{path if path.is_dir() else path.parent}")
    else:
        fields = openclip.write_config(config)
        kind = {"clip": open_clip.CLIP, "siglip": open_clip.CustomTextCLIP}[hf.model_type(config)]
        fields.pop("custom_text", None)  # the factory's word for the class
        model = kind(**fields)
        open_clip.load_checkpoint(model, str(path))
    return _encoded(model.eval(), pixels, tokens)


def _openai(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import open_clip

    return _encoded(open_clip.load_openai_model(str(path), precision="fp32").eval(), pixels, tokens)


def _encoded(model, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
    import torch

    with torch.no_grad():
        zimg = model.encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2), normalize=True)
        ztxt = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    return zimg.numpy(), ztxt.numpy()


def _read_back(prefix: str) -> Peer:
    """For forms without a library that can be installed beside this one: what our own reader makes of the file."""

    def embed(path: Path, config: TwoTowerConfig, pixels: np.ndarray, tokens: np.ndarray) -> Embeddings:
        read_config, params, _ = weights.load(f"{prefix}{path}")
        return ours(read_config, params, pixels, tokens)

    return embed


PEERS: dict[str, Peer] = {
    "hf": _transformers,
    "openclip": _openclip,
    "openai": _openai,
    "big_vision": _read_back(""),
    "run": _read_back("run:"),
}


def largest_difference(path: Path, form: str, config: TwoTowerConfig, params: Params) -> float:
    """The largest difference between a coordinate of our unit embeddings and of those that ``form``'s library
    computes."""
    pixels, tokens = random_inputs(config)
    pairs = zip(ours(config, params, pixels, tokens), PEERS[form](path, config, pixels, tokens), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
