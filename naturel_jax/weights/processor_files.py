"""A processor's files in a model folder: the tokenizer and image-processor files of other libraries, and our own
processor.json next to them."""

import base64
import contextlib
import dataclasses
import gzip
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import tokenizers
from etils import epath
from tokenizers import models, normalizers, pre_tokenizers

from naturel_jax import storage
from naturel_jax.data.seen import trained_on
from naturel_jax.data.text import limited
from naturel_jax.data.text.processor import FILTERS, Processor
from naturel_jax.data.text.tokenizer import clip_tokenizer, padded, templated
from naturel_jax.models.families import FAMILIES, Family, Pixels, TokenizerConventions
from naturel_jax.models.two_tower import ImageConfig, TwoTowerConfig
from naturel_jax.storage import once
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json, reading_tokenizer

OWN = "processor.json"
CHECKSUMS = "checksums.json"  # of the files of an export
RECORD = f"{trained_on.FOLDER}/{trained_on.FOLDER}.json"  # listed there with the checksum of its arrays
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")
_RESAMPLE = {int(value): name for name, value in FILTERS.items()}
_RESIZE_MODES = {"shortest": "short", "squash": "square"}  # OpenCLIP's names and ours
_OPENCLIP_MODES = {ours: theirs for theirs, ours in _RESIZE_MODES.items()}

# What a library does whatever a folder's files say: ``Processor.centre`` and ``to_rgb``.
_CONVENTIONS = {"hf": ("floor", "on_white"), "peft": ("floor", "on_white"), "openclip": ("round", "last")}
# Values of tokenizer_class that pad left, without "Fast": transformers does not write its classes' defaults.
PAD_LEFT = {f"{name}Tokenizer" for name in ("CodeLlama", "Cohere", "Gemma", "Llama", "Siglip2", "XLNet")}


def as_read(processor: Processor, form: str) -> Processor:
    """``processor`` as the library of ``form`` (a key of ``export.FORMS``) follows it: files cannot say how an image
    with transparency becomes RGB, where an odd margin is cropped, and, in transformers, how a text is cleaned."""
    if form not in _CONVENTIONS:
        return processor
    clean = processor.clean
    if form != "openclip":
        clean = "siglip" if processor.sentencepiece else "none"
    elif clean != "openclip":
        canonical = processor.sentencepiece or clean == "openclip_siglip"
        clean = "openclip_siglip" if canonical else "openclip_whitespace"
    centre, to_rgb = _CONVENTIONS[form]
    return dataclasses.replace(processor, clean=clean, centre=centre, to_rgb=to_rgb)


class Text(TypedDict):
    """Conversion of text to token ids: the fields of ``Processor`` with the same names."""

    tokenizer: str
    clean: str


def read_json(path: Path) -> Any:
    """The JSON object in ``path``. Raises UserError."""
    try:
        value = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


@contextlib.contextmanager
def malformed(path: os.PathLike[str]) -> Iterator[None]:
    """Rewrites a reader's errors to name ``path`` or its folder."""
    try:
        yield
    except UserError as error:
        names = {str(path), str(Path(path).parent)} - {"."}
        raise error if any(name in str(error) for name in names) else UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except _MALFORMED as error:
        raise UserError(f"{path}: malformed ({error!r:.300})") from error


# What a reader of JSON raises if a value is absent or of another type.
_MALFORMED = (TypeError, LookupError, AttributeError, ArithmeticError)


def read_own(folder: Path, config: TwoTowerConfig) -> Processor | None:
    """The processor in processor.json, which our exports have, or None without that file. Raises UserError if it
    belongs to another model."""
    path, listed = folder / OWN, folder / CHECKSUMS
    if listed.is_file():
        with malformed(listed):
            _check(folder, storage.read_json(epath.Path(listed)))
    if not path.is_file():
        return None
    with malformed(path):
        processor = Processor(**read_json(path))
        limited.check(path, processor.tokenizer)
        processor.check_ids(config.text)
    image = config.image
    sizes, expected = (processor.size, processor.context), (image.size, config.text.context)
    if sizes != expected:
        raise UserError(f"{path}: size and context are {sizes}, the model's {expected}")
    if processor.patch != (patch := image.patch if image.naflex else None):
        raise UserError(f"{path}: patch is {processor.patch}; expected {patch}, as of this model")
    return processor


def listed_record(folder: Path) -> str:
    """The checksum of the record of training images that the export in ``folder`` had; "" if it had none, or if
    ``folder`` is no export. Raises UserError."""
    listed = folder / CHECKSUMS
    return str(read_json(listed).get(RECORD, "")) if listed.is_file() else ""


def _check(folder: Path, expected: Mapping[str, str]) -> None:
    """Raises UserError for a file that is not as it was exported. Files that were not copied are not missed."""
    files = {path.name for path in once.files_in(folder)}
    if wrong := once.damaged(folder, {name: value for name, value in expected.items() if name in files}):
        raise UserError(
            f"{folder / wrong[0]}: not as it was exported (its checksum differs from that in {CHECKSUMS}); copy the "
            f"folder again, or remove {CHECKSUMS} if you have changed the file on purpose"
        )


def hf_image(folder: Path, image: ImageConfig) -> Pixels:
    """Resize, interpolation, mean and std from a Hugging Face image processor's file, for the tower ``image``. Raises
    UserError for a setting that is not implemented."""
    path = folder / "processor_config.json"  # transformers 5 reads it first, and leaves an older file beside it
    config = read_json(path).get("image_processor") if path.is_file() else None
    if config is None:
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            raise UserError(f"{folder}: preprocessor_config.json is missing, so its image preprocessing is unknown")
        config = read_json(path)
    with malformed(path):
        return _hf_pixels(path, config, image)


_CLASSES = re.compile(r"(CLIP|Siglip2?|ViT|Bit)(ImageProcessor|FeatureExtractor)\w*")  # others resize otherwise

_CLASS_FIELDS = ("image_processor_type", "feature_extractor_type")  # today's, and that of older files


def _hf_pixels(path: Path, config: Mapping[str, Any], image: ImageConfig) -> Pixels:
    for field in _CLASS_FIELDS:
        if (kind := config.get(field)) is not None and not _CLASSES.fullmatch(kind):
            raise UserError(
                f"{path}: {field} is {kind!r:.80}, which may resize otherwise; expected that of CLIP or SigLIP"
            )
    for key in ("do_resize", "do_normalize", "do_rescale"):
        if not config.get(key, True):
            raise UserError(f"{path}: {key} is false; only true is implemented")
    if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise UserError(f"{path}: rescale_factor is {config['rescale_factor']}; only 1/255 is implemented")
    if config.get("resample") not in _RESAMPLE:
        raise UserError(f"{path}: resample is {config.get('resample')!r}; expected one of {_RESAMPLE}")
    common: Any = {
        "interpolation": _RESAMPLE[config["resample"]],
        "mean": config["image_mean"],
        "std": config["image_std"],
    }
    resize = _hf_patches if image.naflex else _hf_resize
    return common | resize(path, config, image)


def _hf_patches(path: Path, config: Mapping[str, Any], image: ImageConfig) -> dict[str, Any]:
    if (patch := config.get("patch_size", image.patch)) != image.patch:
        raise UserError(f"{path}: patch_size is {patch!r}, the model's {image.patch}")
    return {"resize": "naflex", "patch": patch, "max_patches": config.get("max_num_patches", 256)}


def _hf_resize(path: Path, config: Mapping[str, Any], image: ImageConfig) -> dict[str, Any]:
    size = image.size
    wanted, kind = config.get("size"), next(filter(None, map(config.get, _CLASS_FIELDS)), "CLIP")
    if kind.startswith("ViT") and not isinstance(wanted, Mapping):
        wanted = {"height": wanted, "width": wanted}
    square = isinstance(wanted, Mapping) and set(wanted) == {"height", "width"}  # a crop of this size changes nothing
    sides = set(wanted.values()) if isinstance(wanted, Mapping) else {wanted}
    crop = config.get("crop_size", size) if not square or config.get("do_center_crop") else size
    sides |= set(crop.values()) if isinstance(crop, Mapping) else {crop}
    if sides != {size}:
        raise UserError(f"{path}: size {wanted} and crop_size {crop} do not give the model's {size} pixels")
    if not square and not config.get("do_center_crop", kind.startswith(("CLIP", "Bit"))):
        raise UserError(
            f"{path}: size is {wanted}, nothing is cropped, so {kind:.80} leaves images as wide as they are; expected "
            "a size of height and width"
        )
    return {"resize": "square" if square else "short"}


def openclip_image(config: Mapping[str, Any]) -> Pixels:
    """Like ``hf_image``, from ``preprocess_cfg`` of an open_clip_config.json; absent fields, and those that are null,
    take OpenCLIP's defaults, which are CLIP's for all models. Raises UserError."""
    given = {key: value for key, value in config.items() if value is not None}
    fields = {**FAMILIES["clip"].pixels, "resize_mode": "shortest", **given}
    known: dict[str, Mapping[str, Any]] = {"resize_mode": _RESIZE_MODES, "interpolation": FILTERS}
    for key, choices in known.items():
        if fields[key] not in choices:
            raise UserError(
                f"open_clip_config.json: preprocess_cfg.{key} is {fields[key]!r}; expected one of {sorted(choices)}"
            )
    return {
        "resize": _RESIZE_MODES[fields["resize_mode"]],
        "interpolation": fields["interpolation"],
        "mean": fields["mean"],
        "std": fields["std"],
    }


def openclip_preprocess(processor: Processor) -> dict[str, Any]:
    """``preprocess_cfg`` of an open_clip_config.json: the inverse of ``openclip_image``."""
    return {
        "mean": processor.mean,
        "std": processor.std,
        "interpolation": processor.interpolation,
        "resize_mode": _OPENCLIP_MODES[processor.resize],
    }


def openclip_clean(model_config: Mapping[str, Any]) -> str:
    """How OpenCLIP cleans a text before tokenizing it (a key of ``CLEANERS``), given ``model_cfg``; an empty one stands
    for OpenAI's own models. Raises UserError."""
    text = model_config.get("text_cfg", {})
    default = "whitespace" if text.get("hf_tokenizer_name") else "lower"
    settings = {key: value for key, value in (text.get("tokenizer_kwargs") or {}).items() if value}
    clean = settings.pop("clean", default)
    if settings:
        raise UserError(
            f"open_clip_config.json: tokenizer_kwargs.{next(iter(settings))} is not supported; only clean is"
        )
    known = {"lower": "openclip", "whitespace": "openclip_whitespace", "canonicalize": "openclip_siglip"}
    if clean not in known:
        raise UserError(f"open_clip_config.json: tokenizer_kwargs.clean is {clean!r}; expected one of {sorted(known)}")
    return known[clean]


def tokenizer(folder: Path, family: Family, context: int, clean: str = "none") -> Text:
    """The tokenizer of a folder's files, as transformers reads them. Raises UserError if there is none.

    ``clean``: how texts are cleaned before it; sentencepiece's are always cleaned as SigLIP's, there or before.
    """
    settings = folder / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    with malformed(settings):
        return _tokenizer(folder, config, family, context, clean)


# What transformers' tokenizers can be set to, and is implemented.
_TEXT = {"truncation_side": "right", "split_special_tokens": False}
_SENTENCEPIECE = {
    "do_lower_case": True,
    "padding_side": "right",
    "pad_token": "</s>",
    "eos_token": "</s>",
    "additional_special_tokens": [],
    "tokenizer_class": "SiglipTokenizer",
}


def _tokenizer(folder: Path, config: Mapping[str, Any], family: Family, context: int, clean: str) -> Text:
    sentencepiece = (folder / "spiece.model").is_file()
    of_siglip = sentencepiece and clean == "none"  # OpenCLIP's has another class, and its own padding
    for key, expected in (_TEXT | _SENTENCEPIECE if of_siglip else _TEXT).items():
        found = _token(value) if isinstance(value := config.get(key), Mapping) else value
        if found is not None and found != expected:
            raise UserError(f"{folder}/tokenizer_config.json: {key} is {found!r:.80}; only {expected!r} is implemented")
    if sentencepiece:
        pieces = base64.b64encode((folder / "spiece.model").read_bytes()).decode()
        limited.check(folder / "spiece.model", pieces)
        return {"tokenizer": pieces, "clean": clean if clean == "openclip_siglip" else "siglip"}
    tok = _read_tokenizer(folder, family.tokenizer)
    if (side := str((tok.truncation or {}).get("direction", "right")).lower()) != "right":
        raise UserError(f"{folder}/tokenizer.json: truncation.direction is {side!r}; only 'right' is implemented")
    if family.tokenizer.incomplete_files:
        _complete_gemma(tok, config)
    pad = _token(config.get("pad_token") or family.tokenizer.pad)
    if tok.token_to_id(pad) is None:
        raise UserError(f"{folder}: padding token {pad!r} is not in the vocabulary")
    side = (tok.padding or {}).get("direction") or _class_side(tok, str(config.get("tokenizer_class")))
    return {"tokenizer": padded(tok, context, pad, config.get("padding_side", side)).to_str(), "clean": clean}


def _class_side(tok: tokenizers.Tokenizer, kind: str) -> str:
    """On which side transformers' class pads by default."""
    kind = kind.removesuffix("Fast")
    if kind == "LlamaTokenizer" and '"ByteLevel"' in tok.to_str():  # Llama 3's, which transformers opens as another
        return "right"
    return "left" if kind in PAD_LEFT else "right"


def _read_tokenizer(folder: Path, conventions: TokenizerConventions) -> tokenizers.Tokenizer:
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
        raise UserError(
            f"{folder}: no tokenizer; put tokenizer.json, spiece.model, or vocab.json and merges.txt beside the weights"
        )
    with reading_tokenizer(whole if whole.is_file() else vocab):
        if whole.is_file():
            limited.check(whole, text := whole.read_text("utf-8"))
            return tokenizers.Tokenizer.from_str(text)
        ids, pairs = read_json(vocab), _merges(merges.read_text("utf-8").splitlines()[1:])
        limited.check(vocab, json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": ids, "merges": pairs}}))
        return _from_vocab(ids, pairs, conventions)


def _token(value: str | Mapping[str, str]) -> str:
    """A token of tokenizer_config.json, which is a string or an object with the string as ``content``."""
    return value if isinstance(value, str) else value["content"]


def _complete_gemma(tok: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Adds what SigLIP 2's published Gemma tokenizer files leave to the caller: lowercasing, and the end token."""
    state = json.loads(tok.to_str())
    if "Lowercase" not in json.dumps(state["normalizer"]):
        present = [tok.normalizer] if tok.normalizer else []
        tok.normalizer = normalizers.Sequence([normalizers.Lowercase(), *present])
    if config.get("add_eos_token") and not config.get("add_bos_token"):
        templated(tok, f"$A {_token(config.get('eos_token', '<eos>'))}")


def _merges(lines: list[str]) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (line.split() for line in lines if line)]


def _from_vocab(
    vocab: Mapping[str, int], merges: list[tuple[str, str]], conventions: TokenizerConventions
) -> tokenizers.Tokenizer:
    tok = clip_tokenizer(models.BPE(dict(vocab), merges, unk_token=conventions.unknown, end_of_word_suffix="</w>"))
    tok.add_special_tokens(conventions.specials)
    return templated(tok, conventions.template)


def openai_tokenizer(vocabulary: Path, context: int, clean: str = "openclip") -> Text:
    """CLIP's own tokenizer from ``hub.clip_vocabulary()``."""
    data = vocabulary.read_bytes()
    text = (gzip.decompress(data) if vocabulary.suffix == ".gz" else data).decode("utf-8")
    merges = _merges(text.split("\n")[1 : 49152 - 256 - 2 + 1])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    conventions = FAMILIES["clip"].tokenizer
    vocab = {word: i for i, word in enumerate([*words, *conventions.specials])}
    tok = padded(_from_vocab(vocab, merges, conventions), context, conventions.pad)
    return {"tokenizer": tok.to_str(), "clean": clean}


def special_ids(processor: Processor, family: Family) -> dict[str, int | None]:
    """The bos, eos and pad ids for config.json."""
    if processor.sentencepiece:
        return {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    tok = tokenizers.Tokenizer.from_str(processor.tokenizer)
    start, end = family.tokenizer.start, _end_token(tok, family)
    return {
        "bos_token_id": tok.token_to_id(start) if start else None,
        "eos_token_id": tok.token_to_id(end) if end else None,
        "pad_token_id": _padding(tok)["pad_id"],
    }


def _end_token(tok: tokenizers.Tokenizer, family: Family) -> str | None:
    return next((end for end in family.tokenizer.ends if tok.token_to_id(end) is not None), None)


def _padding(tok: tokenizers.Tokenizer) -> dict[str, Any]:
    if tok.padding is None:
        raise ValueError("the processor's tokenizer does not pad; see data.text.tokenizer.padded")
    return tok.padding


def write(folder: Path, processor: Processor, family: Family) -> None:
    """Writes the files that transformers' ``AutoProcessor`` reads, and ours."""
    _dump(folder / OWN, processor.to_dict())
    size = {"height": processor.size, "width": processor.size}
    resize: dict[str, Any] = {"size": size, "do_center_crop": False}  # CLIP's class crops by default
    if processor.resize == "short":
        resize = {"size": {"shortest_edge": processor.size}, "crop_size": size, "do_center_crop": True}
    if processor.resize == "naflex":
        resize = {"patch_size": processor.patch, "max_num_patches": processor.max_patches}
    _dump(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": f"{family.hf_prefix}ImageProcessor",
            "processor_class": f"{family.hf_prefix}Processor",
            "do_convert_rgb": True,
            "do_resize": True,
            **resize,
            "resample": int(FILTERS[processor.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": processor.mean,
            "image_std": processor.std,
        },
    )
    _write_tokenizer(folder, processor, family)


def _write_tokenizer(folder: Path, processor: Processor, family: Family) -> None:
    conventions = family.tokenizer
    common = {
        "model_max_length": processor.context,
        "processor_class": f"{family.hf_prefix}Processor",
        "model_input_names": conventions.model_inputs,
        "unk_token": conventions.unknown,
    }
    if model := processor.sentencepiece:
        (folder / "spiece.model").write_bytes(model)
        ends = {"eos_token": conventions.ends[0], "pad_token": conventions.ends[0]}
        kind = f"{family.hf_prefix}Tokenizer"
        _dump(folder / "tokenizer_config.json", {"tokenizer_class": kind, **common, **ends})
        return
    (folder / "tokenizer.json").write_text(processor.tokenizer, "utf-8")
    tok = tokenizers.Tokenizer.from_str(processor.tokenizer)
    tokens = {"eos_token": _end_token(tok, family), "pad_token": _padding(tok)["pad_token"]}
    if conventions.start:
        tokens["bos_token"] = conventions.start
    side = {"padding_side": _padding(tok)["direction"]}
    _dump(folder / "tokenizer_config.json", {"tokenizer_class": conventions.hf_class, **common, **tokens, **side})


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
