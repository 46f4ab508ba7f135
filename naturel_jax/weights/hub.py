"""Models on the Hugging Face hub."""

import importlib.util
from pathlib import Path

from naturel_jax.data.seen import trained_on
from naturel_jax.storage import hub
from naturel_jax.weights import openclip, peft
from naturel_jax.weights.processor_files import read_json
from tfds_naturel.common.errors import UserError

_CLIP_REPOSITORY = "openai/clip-vit-base-patch32"  # all CLIP models share its vocabulary
_SMALL_FILES = ("*.json", "*.model", "merges.txt")
_OPENCLIP = (("open_clip_model.safetensors",), ("open_clip_pytorch_model.bin",))
_TRANSFORMERS = (("model.safetensors", "model-*.safetensors"), *_OPENCLIP, ("pytorch_model.bin", "pytorch_model-*.bin"))


def fetch(form: str, name: str) -> Path:
    """The local folder of ``owner/name`` or ``owner/name@revision``, downloaded if it is not in the cache.

    ``form``: ``hf`` for transformers' files if the repository has them, ``open_clip`` for OpenCLIP's. Raises UserError
    if that fails, saying what to do offline.
    """
    source = f"{form}:{name}"
    folder = _snapshot(source, name, _SMALL_FILES, small=True)
    config = folder / "config.json"
    # timm's repositories have a model.safetensors too, with only the image tower; their config.json has no model_type.
    transformers = form == "hf" and config.is_file() and "model_type" in read_json(config)
    files: tuple[tuple[str, ...], ...] = _TRANSFORMERS if transformers else _OPENCLIP
    if config.with_name(peft.CONFIG_FILE).is_file():
        files = ((peft.WEIGHTS_FILE,),)
    commit = f"{name.partition('@')[0]}@{folder.name}"  # that of the small files, whatever the branch is by now
    others = (config.name, openclip.CONFIG_FILE, f"{trained_on.FOLDER}/*")  # the library warns if it has no file to get
    for patterns in files:
        _snapshot(source, commit, (*others, *patterns))
        if any(path for pattern in patterns for path in folder.glob(pattern)):
            return folder
    raise UserError(f"{source}: has none of {', '.join(pattern for row in files for pattern in row)}")


def clip_vocabulary() -> Path:
    """The merges of CLIP's tokenizer, from the installed OpenCLIP or the hub. Raises UserError if neither has them."""
    package = importlib.util.find_spec("open_clip")  # finds it without importing it, and with it torch
    if package and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    try:
        return hub.snapshot(_CLIP_REPOSITORY, ("merges.txt",)) / "merges.txt"
    except UserError as error:
        raise UserError(
            f"no tokenizer beside the weights, and CLIP's could not be fetched ({error}); put tokenizer.json there, or "
            "install OpenCLIP, which has CLIP's: pip install 'naturel_jax[torch]'"
        ) from error


def _snapshot(source: str, name: str, patterns: tuple[str, ...], *, small: bool = False) -> Path:
    repository, _, revision = name.partition("@")
    try:
        return hub.snapshot(repository, patterns, revision=revision, small=small)
    except UserError as error:
        raise UserError(
            f"{source}: could not be fetched ({error}). "
            "Without a network, set HF_HUB_OFFLINE=1 with a filled cache, or pass a folder"
        ) from error
