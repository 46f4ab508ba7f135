"""Models with random weights, ours and the peers' own, and the files they write: what the model and weight tests
share."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import traverse_util
from open_clip.model import CLIP, CustomTextCLIP

from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import hf, openclip, tables

torch.set_num_threads(1)  # more than one waits for the slowest on a shared machine
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def random_params(config: TwoTowerConfig, seed: int = 0) -> Params:
    """Parameters none of which is neutral: a zero bias or a unit scale would hide one that is read from the wrong
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


def reduced(name: str, depth: int = 1, vocab: int = 300) -> TwoTowerConfig:
    """A preset with few blocks and words, and all its other shapes."""
    config = preset(name)
    towers = {}
    for tower in ("image", "text"):
        part = getattr(config, tower)
        towers[tower] = dataclasses.replace(part, transformer=dataclasses.replace(part.transformer, depth=depth))
    eos_id = None if config.text.eos_id is None else min(config.text.eos_id, vocab - 1)
    towers["text"] = dataclasses.replace(towers["text"], vocab=vocab, eos_id=eos_id)
    return dataclasses.replace(config, **towers)


def inputs(config: TwoTowerConfig, images: int = 2, texts: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pictures [I, S, S, 3] and token ids [U, L]; CLIP's texts end at different places, in ones padded
    with the end."""
    rng = np.random.default_rng(seed)
    pixels = rng.standard_normal((images, config.image.size, config.image.size, 3), np.float32)
    tokens = rng.integers(3, config.text.vocab - 1, (texts, config.text.context)).astype(np.int32)
    if (end := config.text.eos_id) is not None:
        tokens[tokens == end] = 5
        for row in range(texts):
            tokens[row, 4 + row :] = end
    return pixels, tokens


def torch_inputs(pixels: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(tokens).long()


def hf_model(config: TwoTowerConfig, params: Params) -> torch.nn.Module:
    """transformers' model with these parameters, float32."""
    kind = hf.model_type(config)
    config_class, model_class = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[kind]
    fields = hf.write_config(config, "float32", {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1})
    model = model_class(config_class.from_dict(fields))
    model.load_state_dict(torch_tensors(tables.write(hf.TABLES[kind], params)), strict=True)
    return model.eval()


def openclip_model(config: TwoTowerConfig, params: Params) -> torch.nn.Module:
    """OpenCLIP's model with these parameters, float32; timm's trunks, which exist at full depth only, are cut to the
    config's."""
    kind = hf.model_type(config)
    depth = config.image.transformer.depth
    if kind == "clip":
        model = CLIP(**openclip.write_config(config))
    else:
        full = dataclasses.replace(
            config.image.transformer, depth={768: 12, 1024: 24, 1152: 27, 1536: 40}[config.image.transformer.width]
        )
        image = dataclasses.replace(config.image, transformer=full)
        fields = openclip.write_config(dataclasses.replace(config, image=image))
        del fields["custom_text"]  # the factory's word for this class
        with torch.device("meta"):  # most of it is thrown away
            model = CustomTextCLIP(**fields)
        model.visual.trunk.blocks = model.visual.trunk.blocks[:depth]
        model.to_empty(device="cpu")
    model.load_state_dict(torch_tensors(tables.write(openclip.TABLES[kind], params)), strict=True)
    return model.eval()


def torch_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
