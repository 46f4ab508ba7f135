"""Hub models, from the cache and from a local hub."""

import gzip
import os
import re
import shutil
import subprocess
import sys

import hub_server
import pytest
from model_files import save_hf, tiny

from naturel_jax import weights
from naturel_jax.weights import export, processor_files
from naturel_jax.weights.hub import clip_vocabulary
from tfds_naturel.errors import UserError


def test_hub_models_load_from_the_cache_offline(tmp_path, monkeypatch):
    """In huggingface_hub's offline mode, with the cache's real layout: refs, and a snapshot per commit."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(save_hf(tmp_path / "model", "tiny-clip"), repository / "snapshots" / commit)
    code = "from naturel_jax import weights; c, *_ = weights.load('hf:owner/tiny'); print(c.image.size)"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "48"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf:owner/absent: could not be fetched.*HF_HUB_OFFLINE=1"):
        weights.load("hf:owner/absent")


@pytest.mark.parametrize(
    ("source", "form", "wanted", "other"),
    [
        ("hf", "hf", "model.safetensors", "pytorch_model.bin"),
        ("hf", "openclip", "open_clip_model.safetensors", "model.safetensors"),  # timm's, of the image tower alone
        ("open_clip", "both", "open_clip_model.safetensors", "model.safetensors"),
    ],
)
def test_hub_downloads_only_one_format(tmp_path, source, form, wanted, other):
    """If a repository has several formats, only one is downloaded, together with the small files."""
    folder = tmp_path / "repository"
    export.save(folder, *tiny("tiny-clip"), form="hf" if form == "hf" else "openclip")
    (folder / other).write_bytes(b"weights that are not needed")
    if form == "openclip":
        (folder / "config.json").write_text('{"architecture": "vit_tiny"}')
    if form == "both":
        (folder / "config.json").write_text('{"model_type": "clip"}')
    code = (
        "from naturel_jax import weights; from tfds_naturel import cli; cli.set_up_logging(); "
        f"c, *_ = weights.load('{source}:owner/tiny'); print(c.image.size)"
    )
    hub = hub_server.Hub()
    hub.add("owner/tiny", folder)
    with hub_server.serve(hub):
        environment = hub.environment(tmp_path / "cache")
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "48", run.stderr
    assert re.search(rf"owner/tiny: fetching .*{wanted}.* from {hub.address}", run.stderr)  # downloads are logged
    assert {wanted, "config.json", "tokenizer.json", "preprocessor_config.json"} <= set(hub.requested)
    assert other not in hub.requested


MERGES = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "open_clip" else real(name, *rest)
from naturel_jax.weights import hub, processor_files
print(processor_files.openai_tokenizer(hub.clip_vocabulary(), 77)["tokenizer"])
"""


def test_clips_vocabulary_comes_from_the_hub_where_openclip_is_not_installed(tmp_path):
    """A file of bare CLIP weights has no tokenizer. The hub's merges.txt has the merges of OpenCLIP's file, under a
    line with its version."""
    vocabulary = clip_vocabulary()
    lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")[1:48895]
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    hub = hub_server.Hub()
    hub.add("openai/clip-vit-base-patch32", tmp_path / "clip")
    with hub_server.serve(hub):
        environment = hub.environment(tmp_path / "cache")
        run = subprocess.run([sys.executable, "-c", MERGES], capture_output=True, text=True, env=environment)
        assert run.stdout.strip() == processor_files.openai_tokenizer(vocabulary, 77)["tokenizer"], run.stderr
        hub.repositories.clear()
        environment = hub.environment(tmp_path / "empty")
        run = subprocess.run([sys.executable, "-c", MERGES], capture_output=True, text=True, env=environment)
    assert re.search(r"CLIP's could not be fetched .*; put tokenizer\.json there, or install OpenCLIP", run.stderr)
