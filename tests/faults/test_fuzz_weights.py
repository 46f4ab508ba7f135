"""Checkpoints, tokenizers and processors with mutated files."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from etils import epath

from naturel_jax import weights
from naturel_jax.checkpoints import manifest
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import export, processor_files, tables, tensors, torch_files
from tests.helpers.benchmark_files import png
from tests.helpers.fuzzing import every_count, fuzz
from tests.helpers.model_files import save_hf, sentencepiece_model, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file:UserWarning"),  # of Python 2
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),  # pickletools, of mutated strings
]

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(3).half(), "d": torch.ones(2, 2).bfloat16().t()}
ARRAYS = {key: value.float().numpy() for key, value in STATE.items()}


def tensors_of(opened: tensors.Tensors) -> None:
    for key, shape in opened.shapes.items():
        assert opened.get(key).shape == shape


def script(path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)).half()
    torch.jit.save(torch.jit.script(module), path)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)


def sharded(path: Path) -> None:
    safetensors.numpy.save_file(ARRAYS, path.parent / "model-1.safetensors")
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, "model-1.safetensors")}))


TENSOR_FILES = {
    "safetensors": (lambda path: safetensors.numpy.save_file(ARRAYS, path), tensors.open_safetensors),
    "torch": (lambda path: torch.save({"state_dict": STATE, "epoch": 3}, path), torch_files.open_torch),
    "old torch": (
        lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
        torch_files.open_torch,
    ),
    "TorchScript": (script, torch_files.open_torch),
    "npz": (npz, tensors.open_npz),
    "index.json": (sharded, lambda path: tensors.open_sharded(path, tensors.open_safetensors)),
}


@every_count
@pytest.mark.parametrize("kind", TENSOR_FILES)
def test_tensor_files(tmp_path, kind, count):
    write, read = TENSOR_FILES[kind]
    path = tmp_path / "file"
    write(path)
    fuzz([path], lambda: tensors_of(read(path)), count)


def use(processor: Processor) -> None:
    processor.tokenize(["a cat under the table", ""])
    processor.image(png(0))


def find(folder: Path, config: bool = False) -> None:
    """Everything that precedes reading the tensors; ``config``: also compares the names and shapes, which is slow."""
    found = weights.find(str(folder))
    if config:
        tables.check_keys(found.tensors.name, found.table, Model(found.config).shapes(), found.tensors.shapes)
    use(found.processor)


HF_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


@every_count
@pytest.mark.parametrize("name", HF_FILES)
@pytest.mark.parametrize("model", ["tiny-clip", "tiny-siglip"])
def test_hugging_face_folder(tmp_path, model, name, count):
    folder = save_hf(tmp_path / "model", model)
    fuzz([folder / name], lambda: find(folder, name == "config.json"), count)


@every_count
def test_own_processor(tmp_path, count):
    folder = tmp_path / "model"
    export.save(folder, *tiny("tiny-clip"), form="hf")
    fuzz([folder / processor_files.OWN], lambda: find(folder), count)


@every_count
def test_openclip_config(tmp_path, count):
    folder = tmp_path / "model"
    export.save(folder, *tiny("tiny-clip"), form="openclip")
    (folder / processor_files.OWN).unlink()
    fuzz([folder / "open_clip_config.json"], lambda: find(folder, True), count)


@every_count
def test_sentencepiece(tmp_path, count):
    folder = save_hf(tmp_path / "model", "tiny-siglip")
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(sentencepiece_model(["the cat is under the table"] * 20, 40))
    fuzz([folder / "spiece.model"], lambda: find(folder), count)


@every_count
def test_vocabulary_and_merges(tmp_path, count):
    folder = save_hf(tmp_path / "model", "tiny-clip")
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(state["model"]["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in state["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    fuzz([folder / "vocab.json", folder / "merges.txt"], lambda: find(folder), count)


@every_count
def test_big_vision(tmp_path, count):
    folder = tmp_path / "model"
    export.save(folder, *tiny("tiny-siglip"), form="big_vision")
    fuzz([folder / processor_files.OWN], lambda: find(folder), count)


RUN_FILES = ("meta/metadata", "params/_METADATA", "params/_sharding", "params/manifest.ocdbt", "_CHECKPOINT_METADATA")


@every_count
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's, after a restore that failed
def test_run(tmp_path, count):
    """A run from elsewhere, whose manifest fits its files."""
    export.save(tmp_path / "run", *tiny("tiny-clip"), form="run")
    step = epath.Path(tmp_path / "run/checkpoints/0")

    def read() -> None:
        manifest.write(step)
        use(weights.load(f"run:{tmp_path / 'run'}").processor)

    fuzz([Path(step) / name for name in RUN_FILES], read, count // 4)  # a second each
