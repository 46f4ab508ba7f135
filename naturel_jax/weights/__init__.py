"""Checkpoints in and out, exactly: Hugging Face folders, OpenAI's and OpenCLIP's files, big_vision's npz.

A source is ``hf:owner/name`` (or ``hf:owner/name@revision``), ``open_clip:owner/name`` (where a repository of the hub
holds both transformers' and OpenCLIP's files, the latter), ``run:workdir`` (a run of ours), a folder, a file, or
``preset:file`` for a file that does not say what model it holds (NegCLIP's: ``negclip-b32:negclip.pth``).
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from naturel_jax import checkpoint
from naturel_jax.data.processor import Processor
from naturel_jax.models.presets import PRESETS
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import big_vision, hf, hub, openclip, processor_files, tables
from naturel_jax.weights.tables import Rule, Shape
from naturel_jax.weights.tensors import Tensors, open_npz, open_safetensors, open_sharded, open_torch

ShardingFor = Callable[[str, Shape], jax.sharding.Sharding]

OPENCLIP_CONFIG = "open_clip_config.json"
_HF_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_OPENERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": open_safetensors,
    ".bin": open_torch,
    ".pt": open_torch,
    ".pth": open_torch,
    ".npz": open_npz,
}


class Loaded(NamedTuple):
    """A checkpoint in memory: model sizes, parameters (float32) and processor."""

    config: TwoTowerConfig
    params: Params
    processor: Processor


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint whose config, processor and tensor names are known and whose tensors have not been read yet.

    ``form``: ``hf``, ``naflex`` (a ``Siglip2Model``), ``openclip``, ``openai`` or ``big_vision``; ``path``: the
    folder or file that the library of that form reads.
    """

    form: str
    path: Path
    config: TwoTowerConfig
    processor: Processor
    table: list[Rule]
    tensors: Tensors

    def load(self, sharding_for: ShardingFor | None) -> Loaded:
        """Reads it. Raises ValueError that lists every key that is missing, left over or of a wrong shape."""

        def place(path: str, array: np.ndarray) -> jax.Array:
            if sharding_for is None:
                return jax.device_put(array)
            sharding = sharding_for(path, array.shape)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        shapes = Model(self.config).shapes()
        tables.check_keys(self.tensors.name, self.table, shapes, self.tensors.shapes)
        params = tables.read(self.tensors.name, self.table, shapes, self.tensors.get, place)
        return Loaded(self.config, params, self.processor)


def load(source: str, *, sharding_for: ShardingFor | None = None) -> Loaded:
    """(config, parameters, processor) of ``source``; parameters in float32, whatever the file has.

    ``sharding_for(path, shape)`` places each parameter on devices as soon as it is read, so that a host never holds
    more than one parameter twice. Raises ValueError that names the file, what is wrong with it, and what was expected;
    FileNotFoundError where there is nothing.
    """
    if source.startswith("run:"):
        return Loaded(*checkpoint.load_run(source.removeprefix("run:"), sharding_for=sharding_for))
    return find(source).load(sharding_for)


def find(source: str) -> Foreign:
    """The foreign checkpoint at ``source``, fetched and identified but not read. Raises as ``load``."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in ("hf", "open_clip"):
        return _open_folder(hub.fetch(prefix, rest), openclip=prefix == "open_clip")
    known = PRESETS[prefix] if colon and prefix in PRESETS else None
    path = Path(rest if known else source)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{source}: no such file or folder; a hub's model is written hf:owner/name or "
            "open_clip:owner/name, a run of ours run:workdir"
        )
    return _open_file(path, known)


def _open_folder(folder: Path, openclip: bool = False) -> Foreign:
    """``openclip``: OpenCLIP's files, though transformers' are there too."""
    openclip_file = _first(folder, _OPENCLIP_FILES)
    if not openclip and (folder / "config.json").is_file() and (hf_file := _first(folder, _HF_FILES)):
        config = processor_files.read_json(folder / "config.json")
        if "model_type" in config:
            return _open_hf(folder, config, hf_file)
        openclip_file = openclip_file or hf_file
    if (folder / OPENCLIP_CONFIG).is_file() and (file := openclip_file or _first(folder, _HF_FILES)):
        return _open_file(file, None)
    if len(archives := sorted(folder.glob("*.npz"))) == 1:
        return _open_file(archives[0], None)
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
    raise ValueError(
        f"{folder}: no checkpoint of a known form. Expected config.json or {OPENCLIP_CONFIG} with its weights, "
        f"or one .npz; found {found}"
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _open_tensors(path: Path) -> Tensors:
    if path.name.endswith(".index.json"):
        suffix = Path(path.name.removesuffix(".index.json")).suffix
        return open_sharded(path, _OPENERS[suffix])
    if path.suffix not in _OPENERS:
        raise ValueError(f"{path}: suffix {path.suffix!r} is none of {', '.join(_OPENERS)}")
    return _OPENERS[path.suffix](path)


def _open_hf(folder: Path, raw: Mapping[str, Any], file: Path) -> Foreign:
    config = _parsed(hf.read_config, raw, folder / "config.json")
    form = "naflex" if raw["model_type"] == "siglip2" else "hf"
    processor = processor_files.read_own(folder, config)
    if processor is None:
        text = processor_files.tokenizer(folder, hf.model_type(config), config.text.context)
        if form == "naflex":  # its own preparation keeps a picture's proportions; at its square grid it is SigLIP 2's
            image = processor_files.IMAGE_DEFAULTS["siglip"]
        else:
            image = processor_files.hf_image(folder, config.image.size)
        processor = Processor(context=config.text.context, size=config.image.size, **text, **image)
    tensors = _without(_open_tensors(file), hf.IGNORED)
    return Foreign(form, folder, config, processor, hf.TABLES[raw["model_type"]], tensors)


def _parsed(read: Callable[[Any], TwoTowerConfig], raw: Any, path: Path) -> TwoTowerConfig:
    """``read(raw)``, whose errors name ``path``."""
    try:
        return read(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (TypeError, LookupError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: malformed ({error!r})") from error


def _without(tensors: Tensors, ignored: tuple[str, ...]) -> Tensors:
    return tensors.renamed({key: key for key in tensors.shapes if key not in ignored})


def _open_file(path: Path, known: TwoTowerConfig | None) -> Foreign:
    tensors = _open_tensors(path)
    if path.suffix == ".npz":
        tensors = tensors.renamed(big_vision.names(tensors.shapes))
        config = known or _parsed(big_vision.read_shapes, tensors.shapes, path)
        table, processor = big_vision.read_table(tensors.shapes), _processor(path.parent, config, None, None)
        return Foreign("big_vision", path, config, processor, table, tensors)
    tensors = _without(tensors, openclip.IGNORED)
    raw: Any = {}
    if known:
        config = known
    elif (beside := path.parent / OPENCLIP_CONFIG).is_file():
        raw = processor_files.read_json(beside)
        config = _parsed(openclip.read_config, raw, beside)
    elif tensors.script:  # only OpenAI published its models so
        config = _parsed(openclip.read_openai_shapes, tensors.shapes, path)
    else:
        raise ValueError(
            f"{path}: weights alone do not say with which GELU they were trained. Pass a Hugging Face model's folder, "
            f"put {OPENCLIP_CONFIG} beside the file, or name the model, as in negclip-b32:{path.name}; "
            f"known models: {', '.join(sorted(PRESETS))}"
        )
    table = openclip.TABLES[hf.model_type(config)]
    clean = processor_files.openclip_clean(raw.get("model_cfg", raw))
    processor = _processor(path.parent, config, clean, raw.get("preprocess_cfg"))
    return Foreign("openai" if tensors.script else "openclip", path, config, processor, table, tensors)


def _processor(
    folder: Path, config: TwoTowerConfig, clean: str | None, preprocess: Mapping[str, Any] | None
) -> Processor:
    """The processor of a weight file from what lies beside it, else what the family's published code does.

    ``clean`` and ``preprocess``: what an OpenCLIP config says of texts and pictures; None where there is none.
    """
    if own := processor_files.read_own(folder, config):
        return own
    family = hf.model_type(config)
    beside = any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "vocab.json"))
    if beside or family == "siglip" or config.text.vocab != PRESETS["clip-b32"].text.vocab:
        text = processor_files.tokenizer(folder, family, config.text.context)
    else:
        text = processor_files.openai_tokenizer(config.text.context)
    if clean and text["clean"] != "siglip":  # SigLIP's own sentencepiece tokenizer cleans in its way
        text["clean"] = clean
    if preprocess:
        image = processor_files.openclip_image(preprocess, family)
    elif (folder / "preprocessor_config.json").is_file():
        image = processor_files.hf_image(folder, config.image.size)
    else:
        image = processor_files.IMAGE_DEFAULTS[family]
    if clean:
        image = {**image, "centre": "round"}
    return Processor(context=config.text.context, size=config.image.size, **text, **image)
