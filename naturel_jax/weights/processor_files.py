"""A processor's files in a model folder: the peers' tokenizer and image-processor files, and our own processor.json
beside them."""

import base64
import gzip
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from naturel_jax.data.processor import FILTERS, Processor, clip_tokenizer, padded
from naturel_jax.models.two_tower import TwoTowerConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
OWN = "processor.json"
_RESAMPLE = {int(value): name for name, value in FILTERS.items()}

# How a family's pictures are prepared where a file holds nothing but weights.
IMAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {"resize": "short", "interpolation": "bicubic", "mean": CLIP_MEAN, "std": CLIP_STD},
    "siglip": {"resize": "square", "interpolation": "bilinear", "mean": HALF, "std": HALF},
}


def read_json(path: Path) -> Any:
    """The JSON in ``path``. Raises ValueError."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error


def read_own(folder: Path, config: TwoTowerConfig) -> Processor | None:
    """The processor that an export of ours keeps in processor.json, if there is one. Raises ValueError if it is
    another model's."""
    path = folder / OWN
    if not path.is_file():
        return None
    try:
        processor = Processor(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    found, expected = (processor.size, processor.context), (config.image.size, config.text.context)
    if found != expected:
        raise ValueError(f"{path}: size and context are {found}, the model's {expected}")
    return processor


def hf_image(folder: Path, size: int) -> dict[str, Any]:
    """Resize, interpolation, mean and std from a Hugging Face image processor's file. Raises ValueError for what is
    not implemented."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            path, config = folder / name, read_json(folder / name)
            break
    else:
        raise ValueError(
            f"{folder}: preprocessor_config.json is missing, so how its pictures were prepared is not known"
        )
    config = config.get("image_processor", config)
    for key in ("do_resize", "do_normalize", "do_rescale"):
        if not config.get(key, True):
            raise ValueError(f"{path}: {key} is false; only true is implemented")
    if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"{path}: rescale_factor is {config['rescale_factor']}; only 1/255 is implemented")
    wanted = config.get("size")
    square = isinstance(wanted, Mapping) and set(wanted) == {"height", "width"} and not config.get("do_center_crop")
    sides = set(wanted.values()) if isinstance(wanted, Mapping) else {wanted}
    crop = config.get("crop_size", size) if not square else size
    sides |= set(crop.values()) if isinstance(crop, Mapping) else {crop}
    if sides != {size}:
        raise ValueError(f"{path}: size {wanted} and crop_size {crop} make no picture of the model's {size} pixels")
    if config.get("resample") not in _RESAMPLE:
        raise ValueError(f"{path}: resample is {config.get('resample')!r}; expected one of {_RESAMPLE}")
    return {
        "resize": "square" if square else "short",
        "interpolation": _RESAMPLE[config["resample"]],
        "mean": config["image_mean"],
        "std": config["image_std"],
    }


def openclip_image(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The same from ``preprocess_cfg`` of an open_clip_config.json; absent fields are OpenCLIP's defaults for the
    family."""
    resize = {"clip": "shortest", "siglip": "squash"}[family]
    fields = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": resize, **config}
    modes = {"shortest": "short", "squash": "square"}
    for key, known in (("resize_mode", modes), ("interpolation", FILTERS)):
        if fields[key] not in known:
            raise ValueError(
                f"open_clip_config.json: preprocess_cfg.{key} is {fields[key]!r}; expected one of {sorted(known)}"
            )
    return {
        "resize": modes[fields["resize_mode"]],
        "interpolation": fields["interpolation"],
        "mean": fields["mean"],
        "std": fields["std"],
    }


def openclip_clean(model_config: Mapping[str, Any] | None) -> str:
    """What OpenCLIP does to a text before its tokenizer, given ``model_cfg``, or None for OpenAI's own models."""
    text = (model_config or {}).get("text_cfg", {})
    default = "whitespace" if text.get("hf_tokenizer_name") else "lower"
    clean = (text.get("tokenizer_kwargs") or {}).get("clean", default)
    known = {"lower": "openclip", "whitespace": "openclip_whitespace", "canonicalize": "openclip_siglip"}
    if clean not in known:
        raise ValueError(f"open_clip_config.json: tokenizer_kwargs.clean is {clean!r}; expected one of {sorted(known)}")
    return known[clean]


def tokenizer(folder: Path, family: str, context: int) -> dict[str, str]:
    """The ``tokenizer`` and ``clean`` of a folder's tokenizer files, as transformers reads them. Raises ValueError
    if there are none."""
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if (folder / "spiece.model").is_file():
        if not config.get("do_lower_case", True):
            raise ValueError(f"{folder}/tokenizer_config.json: do_lower_case is false; SigLIP's texts are lowercased")
        return {"tokenizer": base64.b64encode((folder / "spiece.model").read_bytes()).decode(), "clean": "siglip"}
    if (folder / "tokenizer.json").is_file():
        try:
            tok = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"{folder}/tokenizer.json: not a tokenizer ({error})") from error
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text("utf-8").splitlines()[1:] if line]
        tok = _clip(read_json(folder / "vocab.json"), merges)
    else:
        raise ValueError(
            f"{folder}: no tokenizer; put tokenizer.json, spiece.model, or vocab.json and merges.txt beside the weights"
        )
    if family == "siglip":
        _siglip_conventions(tok, config)
    pad = config.get("pad_token") or {"clip": "<|endoftext|>", "siglip": "<pad>"}[family]
    pad = pad["content"] if isinstance(pad, Mapping) else pad
    if tok.token_to_id(pad) is None:
        raise ValueError(f"{folder}: padding token {pad!r} is not in the vocabulary")
    return {"tokenizer": padded(tok, context, pad, config.get("padding_side", "right")).to_str(), "clean": "none"}


def _siglip_conventions(tok: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """SigLIP 2's texts are lowercased and end in the end token, which its published Gemma tokenizer files leave to
    the caller."""
    state = json.loads(tok.to_str())
    if "Lowercase" not in json.dumps(state["normalizer"]):
        present = [tok.normalizer] if tok.normalizer else []
        tok.normalizer = normalizers.Sequence([normalizers.Lowercase(), *present])
    if config.get("add_eos_token") and not config.get("add_bos_token"):
        end = config.get("eos_token", "<eos>")
        end = end["content"] if isinstance(end, Mapping) else end
        special = [(end, tok.token_to_id(end))]
        tok.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=special)


def _clip(vocab: Mapping[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    start, end = "<|startoftext|>", "<|endoftext|>"
    tok = clip_tokenizer(models.BPE(dict(vocab), merges, unk_token=end, end_of_word_suffix="</w>"))
    tok.add_special_tokens([start, end])
    specials = [(t, vocab[t]) for t in (start, end)]
    tok.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=specials)
    return tok


def openai_tokenizer(context: int) -> dict[str, str]:
    """CLIP's own vocabulary, from the file that OpenCLIP installs. Raises ValueError if OpenCLIP is not installed."""
    package = importlib.util.find_spec("open_clip")  # finds it without importing it, and so torch
    if package is None:
        raise ValueError(
            "the file has no tokenizer beside it, and OpenCLIP, which ships CLIP's vocabulary, is not installed: "
            "pip install open_clip_torch, or put tokenizer.json beside the weights"
        )
    path = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return {"tokenizer": padded(_clip(vocab, merges), context, "<|endoftext|>").to_str(), "clean": "openclip"}


def special_ids(processor: Processor, family: str) -> dict[str, int | None]:
    """bos, eos and pad ids as config.json has them."""
    if processor.sentencepiece:
        return {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    tok = tokenizers.Tokenizer.from_str(processor.tokenizer)
    start, end = {"clip": ("<|startoftext|>", "<|endoftext|>"), "siglip": ("", "</s>")}[family]
    end_id = next((i for name in (end, "<eos>") if (i := tok.token_to_id(name)) is not None), None)
    return {"bos_token_id": tok.token_to_id(start), "eos_token_id": end_id, "pad_token_id": tok.padding["pad_id"]}


def write(folder: Path, processor: Processor, family: str) -> None:
    """The files that transformers' ``AutoProcessor`` reads, and ours."""
    _dump(folder / OWN, processor.to_dict())
    name = {"clip": "CLIP", "siglip": "Siglip"}[family]
    size = {"height": processor.size, "width": processor.size}
    sizes = (
        {"size": size}
        if processor.resize == "square"
        else {
            "size": {"shortest_edge": processor.size},
            "crop_size": size,
            "do_center_crop": True,
        }
    )
    _dump(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": f"{name}ImageProcessor",
            "processor_class": f"{name}Processor",
            "do_convert_rgb": True,
            "do_resize": True,
            **sizes,
            "resample": int(FILTERS[processor.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": processor.mean,
            "image_std": processor.std,
        },
    )
    _write_tokenizer(folder, processor, family, f"{name}Processor")


def _write_tokenizer(folder: Path, processor: Processor, family: str, processor_class: str) -> None:
    common = {"model_max_length": processor.context, "processor_class": processor_class}
    if model := processor.sentencepiece:
        (folder / "spiece.model").write_bytes(model)
        tokens = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        _dump(folder / "tokenizer_config.json", {"tokenizer_class": "SiglipTokenizer", **common, **tokens})
        return
    (folder / "tokenizer.json").write_text(processor.tokenizer, "utf-8")
    tok = tokenizers.Tokenizer.from_str(processor.tokenizer)
    if family == "clip":
        tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        kind = "CLIPTokenizer"
    else:
        end = "</s>" if tok.token_to_id("</s>") is not None else "<eos>"
        tokens, kind = {"eos_token": end, "unk_token": "<unk>"}, "PreTrainedTokenizerFast"
    tokens["pad_token"] = tok.padding["pad_token"]
    side = {"padding_side": tok.padding["direction"]}
    _dump(folder / "tokenizer_config.json", {"tokenizer_class": kind, **common, **tokens, **side})


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
