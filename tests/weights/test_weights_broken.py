"""Broken and malicious checkpoints: the error names the file or key and the problem, and no code is executed."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from naturel_jax import weights
from naturel_jax.models.families import FAMILIES
from naturel_jax.weights import big_vision, export, processor_files, tables
from tests.helpers.model_files import tiny
from tfds_naturel.common.errors import UserError


def edit_tensors(folder: Path, change) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(folder: Path, name: str, *path, value) -> None:
    content = json.loads((folder / name).read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / name).write_text(json.dumps(content))


def truncate(path: Path, share: float = 0.5) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


class Code:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def pickled_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Code()}, file, protocol=2)  # torch's pickle protocol


def zip_bomb(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * (80 << 20))


def index(weight_map) -> object:
    def build(folder: Path) -> None:
        arrays = safetensors.numpy.load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map(arrays)}))

    return build


def deep_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {"[" * 100_000}{"]" * 100_000}}}')


CUT = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
BLOCK = "vision_model.encoder.layers.3.mlp.fc1.weight"


def tensors(change):
    return lambda folder: edit_tensors(folder, change)


def config(*path, value):
    return lambda folder: edit_json(folder, "config.json", *path, value=value)


def images(field, value):
    return lambda folder: edit_json(folder, "preprocessor_config.json", field, value=value)


def without(name):
    return lambda folder: (folder / name).unlink()


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def pop_block(arrays):
    for key in [key for key in arrays if "vision_model.encoder.layers.3." in key]:
        del arrays[key]


def as_a_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints").mkdir()


BROKEN = {
    "truncated": (lambda f: truncate(f / "model.safetensors"), r"model\.safetensors: truncated or not a safetensors"),
    "deep index": (deep_index, r"index\.json: not an index with a 'weight_map' .*nested too deeply"),
    "missing projection": (tensors(lambda a: a.pop("text_projection.weight")), r"1 missing: text_projection\.weight"),
    "missing block": (tensors(pop_block), r"16 missing: vision_model\.encoder\.layers\.3\..* and 8 more"),
    "extra block": (
        tensors(lambda a: a.update({BLOCK.replace("3", "4"): a[BLOCK]})),
        r"1 not of this model: vision_model\.encoder\.layers\.4\.mlp\.fc1\.weight",
    ),
    "wrong shape": (
        tensors(lambda a: a.update({BLOCK: a[BLOCK][:-1].copy()})),
        r"1 of the wrong shape: vision_model\.encoder\.layers\.3\.mlp\.fc1\.weight \[511, 128\] instead of \[512, 128",
    ),
    "overflown float16": (
        tensors(lambda a: a.update({BLOCK: np.full(a[BLOCK].shape, np.inf, np.float16)})),
        r"NaN or infinity in vision_model\.encoder\.layers\.3",
    ),
    "integers": (
        tensors(lambda a: a.update({BLOCK: a[BLOCK].astype(np.int8)})),
        r"fc1\.weight has dtype I8; expected one of F32, F16, BF16",
    ),
    "another family": (config("model_type", value="blip"), r"config\.json: model_type is 'blip'; expected one of"),
    "SigLIP's config": (config("model_type", value="siglip"), r"missing: .*vision_model\.head|missing: logit_bias"),
    "unknown activation": (
        config("text_config", "hidden_act", value="relu"),
        r"text_config\.hidden_act is 'relu'; expected one of",
    ),
    "gray images": (config("vision_config", "num_channels", value=1), r"vision_config\.num_channels is 1; only 3"),
    "absurd depth": (
        config("vision_config", "num_hidden_layers", value=10**9),
        r"depth 1000000000: expected a whole number from 1 to 1024",
    ),
    "config of another shape": (config("vision_config", value=[1]), r"config\.json: malformed"),
    "config not JSON": (text("config.json", "{"), r"config\.json: not readable as JSON"),
    "code in a pickle": (
        pickled_code,
        r"pytorch_model\.bin: holds pickled objects other than tensors, which could run code; refused",
    ),
    "zip bomb": (zip_bomb, r"pytorch_model\.bin: .* bytes that unpack to 83,886,080"),
    "index outside the folder": (
        index(lambda a: dict.fromkeys(a, "../model.safetensors")),
        r"'\.\./model\.safetensors' is not in the folder of the index",
    ),
    "index to an absent file": (
        index(lambda a: dict.fromkeys(a, "model-2.safetensors")),
        r"'model-2\.safetensors' is missing; download it again",
    ),
    "index of other keys": (index(lambda a: {"x": "model-1.safetensors"}), r"index and files disagree about"),
    "no tokenizer": (without("tokenizer.json"), r"no tokenizer; put tokenizer\.json"),
    "broken tokenizer": (text("tokenizer.json", "{}"), r"tokenizer\.json: not a tokenizer"),
    "no image processor": (
        without("preprocessor_config.json"),
        r"preprocessor_config\.json is missing, so its image preprocessing",
    ),
    "another image size": (images("crop_size", 224), r"do not give the model's 48 pixels"),
    "another image processor": (
        images("image_processor_type", "ConvNextImageProcessor"),
        r"image_processor_type is 'ConvNextImageProcessor', which may resize otherwise",
    ),
    "texts cut at their start": (
        lambda folder: edit_json(folder, "tokenizer_config.json", "truncation_side", value="left"),
        r"tokenizer_config\.json: truncation_side is 'left'; only 'right' is implemented",
    ),
    "texts cut at their start, by the tokenizer": (
        lambda folder: edit_json(folder, "tokenizer.json", "truncation", value=CUT),
        r"tokenizer\.json: truncation\.direction is 'left'; only 'right' is implemented",
    ),
    "unknown interpolation": (images("resample", 0), r"resample is 0; expected one of"),
    "a run": (as_a_run, r"model: a run of naturel_jax; write run:.*model$"),
    "no weights": (without("model.safetensors"), r"no checkpoint in a known format.*found README"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint_errors(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    export.save(folder, *tiny("tiny-clip"), form="hf")
    (folder / processor_files.OWN).unlink()
    (folder / "checksums.json").unlink()  # else every change is one of a copy
    breaks, message = BROKEN[kind]
    breaks(folder)
    with pytest.raises(UserError, match=message):
        weights.load(str(folder))
    assert not (tmp_path / "pwned").exists()


def test_a_copy_that_differs_from_its_checksums_is_refused(tmp_path):
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="hf")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not as it was exported .* remove checksums\.json if"):
        weights.find(str(tmp_path / "model"))
    (tmp_path / "model" / processor_files.CHECKSUMS).write_text("{}")
    with pytest.raises(UserError, match=r"checksums\.json: .*damaged: it has no 'xxh3_of_rest'"):
        weights.find(str(tmp_path / "model"))


def test_a_pipe_is_refused_where_it_would_be_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(UserError, match="not a regular file"):
        weights.load(f"clip-b32:{tmp_path}/a.pt")


def npz_of(change):
    def build(path: Path) -> None:
        arrays = tables.write(big_vision.table(False, False), tiny("tiny-siglip").params)
        change(arrays)
        np.savez(path, **arrays)

    return build


def npz_with_wrong_header(path: Path) -> None:
    npz_of(lambda arrays: None)(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["b.npy"] = members["b.npy"].replace(b"(1,)", b"(9,)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npz_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("params/b.npy", b"\0" * (80 << 20))


def header(path: Path, content: object) -> None:
    """An array whose header has ``content``, which NumPy's parser reads."""
    text = f"{content}\n".encode()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text)


BROKEN_NPZ = {
    "objects": (
        npz_of(lambda a: a.update({"b": np.array([Code()], object)})),
        r"'b\.npy' holds pickled objects; refused",
    ),
    "wrong header": (npz_with_wrong_header, r"'b\.npy' has .* bytes, but its header says"),
    "zip bomb": (npz_bomb, r"bytes that unpack to 83,886,080"),
    "image tower only": (
        npz_of(lambda a: [a.pop(key) for key in list(a) if key.startswith("txt/")]),
        r"model\.npz: not a SigLIP checkpoint of big_vision: txt/pos_embedding",
    ),
    "header of several kinds": (
        lambda path: header(path, {"shape": (), 1: 2}),
        r"'a\.npy' is not an array with a header",
    ),
    "header that is no key": (lambda path: header(path, "{[]: 1}"), r"'a\.npy' is not an array with a header"),
    "truncated": (lambda path: (npz_of(lambda a: None)(path), truncate(path)), r"truncated or not a npz file"),
    "positions twice": (
        npz_of(lambda a: a.update({"txt/Encoder_0/pos_embedding": a["txt/pos_embedding"]})),
        r"1 not of this model: txt/Encoder_0/pos_embedding",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_NPZ)
def test_broken_npz_errors(tmp_path, kind):
    build, message = BROKEN_NPZ[kind]
    build(tmp_path / "model.npz")
    processor_files.write(tmp_path, tiny("tiny-siglip").processor, FAMILIES["siglip"])
    with pytest.raises(UserError, match=message):
        weights.load(str(tmp_path / "model.npz"))
