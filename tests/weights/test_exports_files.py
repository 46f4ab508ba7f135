"""The files of exports against the libraries' own configuration classes: what a class reads from our file, and saves
again with ``save_pretrained``, is what we meant."""

import json
from pathlib import Path

import pytest
import transformers

from naturel_jax.data.text.processor import FILTERS
from naturel_jax.models.families import family_of
from naturel_jax.weights import export
from tests.helpers.model_files import CAPTIONS, tiny

NAMES = ["tiny-clip", "tiny-siglip", "tiny-naflex"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("files")
    for name in NAMES:
        export.save(root / name, *tiny(name), form="hf")
    return {name: root / name for name in NAMES}


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text("utf-8"))


def contained(ours: dict, theirs: dict, path: str = "") -> list[str]:
    """The fields of ``ours`` that ``theirs`` does not have with the same value."""
    different = []
    for key, value in ours.items():
        if isinstance(value, dict) and isinstance(theirs.get(key), dict):
            different += contained(value, theirs[key], f"{path}{key}.")
        elif key not in theirs or theirs[key] != value:
            different.append(f"{path}{key}: {value!r}, theirs {theirs.get(key, 'absent')!r}")
    return different


@pytest.mark.parametrize("name", NAMES)
def test_config_is_one_that_its_class_would_write(folders, name, tmp_path):
    """Every field that we write is one of the class, with our value; the other fields are those of a new config with
    the sizes of the model."""
    config, family = tiny(name).config, family_of(tiny(name).config)
    kind = getattr(transformers, f"{family.hf_prefix}Config")
    kind.from_pretrained(folders[name]).save_pretrained(tmp_path)
    saved = read(tmp_path, "config.json")
    assert not contained(read(folders[name], "config.json"), saved)
    towers = {}
    for tower, part in (("text_config", config.text.transformer), ("vision_config", config.image.transformer)):
        sizes = {"hidden_size": part.width, "num_hidden_layers": part.depth, "num_attention_heads": part.heads}
        towers[tower] = sizes | {"intermediate_size": part.mlp_dim}
    ids = {key: saved["text_config"].get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    towers["text_config"] |= {"vocab_size": config.text.vocab, "max_position_embeddings": config.text.context, **ids}
    grid = {"num_patches": config.image.grid**2} if config.image.naflex else {"image_size": config.image.size}
    towers["vision_config"] |= {"patch_size": config.image.patch, **grid}
    width = {"projection_dim": config.embed_dim} if family.name == "clip" else {}
    new = kind(text_config=towers["text_config"] | width, vision_config=towers["vision_config"] | width, **width)
    new.save_pretrained(tmp_path / "new")
    differences = contained(saved, read(tmp_path / "new", "config.json"))
    expected = {"architectures", "dtype", "text_config.projection_size"}
    assert {difference.partition(":")[0] for difference in differences} <= expected, differences


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_and_image_processor_are_kept_by_save_pretrained(folders, name, tmp_path):
    """Loaded and saved by the library, they do the same; ours name everything that the classes would set otherwise."""
    ours = transformers.AutoProcessor.from_pretrained(folders[name])
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    texts = [*CAPTIONS[:3], "", "A Cat, and: the DOG!", "under " * 60]
    padding = {"padding": "max_length", "truncation": True}
    assert dict(ours(text=texts, **padding)) == dict(theirs(text=texts, **padding))
    family, processor = family_of(tiny(name).config), tiny(name).processor
    assert ours.tokenizer.model_input_names == list(family.tokenizer.model_inputs)
    assert ours.tokenizer.model_max_length == processor.context
    fields = json.loads(ours.image_processor.to_json_string())
    assert fields == json.loads(theirs.image_processor.to_json_string())
    assert not contained(
        read(folders[name], "preprocessor_config.json"), fields | {"processor_class": f"{family.hf_prefix}Processor"}
    )
    assert fields["resample"] == FILTERS[processor.interpolation]
