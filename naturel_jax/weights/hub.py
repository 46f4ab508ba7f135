"""Models on the Hugging Face hub, through ``huggingface_hub`` with its cache, resumption and offline mode
(``HF_HUB_OFFLINE=1``)."""

import logging
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from naturel_jax.weights.processor_files import read_json
from tfds_naturel.errors import UserError

_LOG = logging.getLogger(__name__)

_SMALL = ("*.json", "*.model", "merges.txt")
_OPENCLIP = (("open_clip_model.safetensors",), ("open_clip_pytorch_model.bin",))
_TRANSFORMERS = (("model.safetensors", "model-*.safetensors"), *_OPENCLIP, ("pytorch_model.bin", "pytorch_model-*.bin"))


def fetch(form: str, name: str) -> Path:
    """The local folder of ``owner/name`` or ``owner/name@revision``, downloaded if it is not in the cache.

    ``form``: ``hf`` for transformers' files if the repository has them, ``open_clip`` for OpenCLIP's. Raises UserError
    if that fails, saying what to do offline.
    """
    repository, _, revision = name.partition("@")
    source = f"{form}:{name}"
    try:
        config = _snapshot(repository, revision, _SMALL) / "config.json"
        # timm's repositories have a model.safetensors too, with only the image tower; their config.json has no
        # model_type.
        transformers = form == "hf" and config.is_file() and "model_type" in read_json(config)
        files = _TRANSFORMERS if transformers else _OPENCLIP
        for patterns in files:
            folder = _snapshot(repository, revision, (*_SMALL, *patterns))
            if any(path for pattern in patterns for path in folder.glob(pattern)):
                return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            f"{source}: could not be fetched ({error}). "
            "Without a network, set HF_HUB_OFFLINE=1 with a filled cache, or pass a folder"
        ) from error
    raise UserError(f"{source}: has none of {', '.join(pattern for row in files for pattern in row)}")


def _snapshot(repository: str, revision: str, patterns: tuple[str, ...]) -> Path:
    _LOG.info("%s: fetching %s from %s", repository, ", ".join(patterns), constants.ENDPOINT)
    path = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns))
    return Path(path)
