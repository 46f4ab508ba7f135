"""Models with random weights in transformers' own format."""

import dataclasses
from pathlib import Path

import torch

from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import preset
from naturel_jax.weights import processor_files
from tests.helpers.model_files import hf_model, random_params

CAPTIONS = ["a cat on a box 0 1 2 3", "the hat with a dog is under the tree", "replace obj att swap add rel"]


def write_model(folder: Path, name: str, seed: int = 0) -> tuple[torch.nn.Module, Processor]:
    """Saves a model with random weights in transformers' format; returns it and its processor."""
    config, family = preset(name), "siglip" if "siglip" in name else "clip"
    if family == "clip":  # the tokenizer below has few words and ends with token 1
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=300, eos_id=1))
    tokenizer = train_tokenizer(family, CAPTIONS * 3, 300, config.text.context)
    resize, interpolation = {"clip": ("short", "bicubic"), "siglip": ("square", "bilinear")}[family]
    statistics = {"mean": (0.48, 0.45, 0.40), "std": (0.26, 0.26, 0.27)}
    processor = Processor(
        tokenizer=tokenizer,
        context=config.text.context,
        size=config.image.size,
        resize=resize,
        interpolation=interpolation,
        **statistics,
    )
    model = hf_model(config, random_params(config, seed))
    model.save_pretrained(folder)
    processor_files.write(folder, processor, family_of(config))
    return model, processor
