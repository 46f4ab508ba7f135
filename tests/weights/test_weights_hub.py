"""Hub models, from the cache and from a local hub."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import open_clip
import pytest

from naturel_jax import weights
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.presets import CLIP
from naturel_jax.weights import export, processor_files
from naturel_jax.weights.hub import clip_vocabulary
from tests.helpers import hub_server
from tests.helpers.model_files import assert_same, random_params, save_hf, tiny
from tfds_naturel.common.errors import UserError


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
    (folder / "logs").mkdir()
    (folder / "logs/trace.json").write_text("{}")
    if form == "openclip":
        (folder / "config.json").write_text('{"architecture": "vit_tiny"}')
    if form == "both":
        (folder / "config.json").write_text('{"model_type": "clip"}')
    code = (
        "from naturel_jax import weights; from tfds_naturel.common import cli; cli.set_up_logging(); "
        f"c, *_ = weights.load('{source}:owner/tiny'); print(c.image.size)"
    )
    hub = hub_server.Hub()
    hub.add("owner/tiny", folder)
    with hub_server.serve(hub):
        with_login = hub.address.replace("//", "//user:pA55@")
        environment = hub.environment(tmp_path / "cache", HF_ENDPOINT=with_login)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "48" and "pA55" not in run.stderr, run.stderr
    assert re.search(rf"owner/tiny: fetching .*{wanted}.* from {hub.address}", run.stderr)  # downloads are logged
    assert {wanted, "config.json", "tokenizer.json", "preprocessor_config.json"} <= set(hub.requested)
    assert other not in hub.requested and "logs/trace.json" not in hub.requested


@pytest.mark.slow
def test_hub_model_is_converted_with_its_record(tmp_path):
    """The command, from a hub to a folder that its library has run; the images it was trained on stay known."""
    record, tiny_clip = TrainedOn.of(["coco:1"]), tiny("tiny-clip")
    export.save(tmp_path / "repository", *tiny_clip, form="hf", trained_on=record)
    hub = hub_server.Hub()
    hub.add("owner/tiny", tmp_path / "repository")
    command = [sys.executable, "-m", "naturel_jax.convert", "hf:owner/tiny", str(tmp_path / "out"), "--to", "openclip"]
    with hub_server.serve(hub):
        environment = hub.environment(tmp_path / "cache")
        run = subprocess.run([*command, "--verify"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(re.findall("gives? the same pixels and ids", run.stdout)) == 2
    assert_same(weights.load(str(tmp_path / "out")).params, tiny_clip.params)
    assert weights.trained_on(str(tmp_path / "out")).checksum() == record.checksum()


TEXTS = ["a mug in grass", "Grass in a mug, isn't it?", "\u732b \U0001f63a caf\u00e9"]
WITHOUT_OPENCLIP = f"""
import importlib.util, json, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "open_clip" else real(name, *rest)
from naturel_jax import weights
from tfds_naturel.common import cli
cli.run(lambda arguments: print(json.dumps(weights.load(arguments[0]).processor.tokenize({TEXTS}).tolist())))
"""


def test_weights_without_a_tokenizer_are_read_where_openclip_is_not_installed(tmp_path):
    """CLIP's vocabulary is then the hub's merges.txt: the merges of OpenCLIP's file, under a line with its version."""
    vocabulary, towers = clip_vocabulary(), {"image": CLIP.tower(128, 1, 2), "text": CLIP.tower(64, 1, 1)}
    config = CLIP.config(size=64, patch=32, **towers, embed_dim=32)
    processor = Processor(context=77, size=64, **CLIP.pixels, **processor_files.openai_tokenizer(vocabulary, 77))
    export.save(tmp_path / "saved", config, random_params(config), processor, form="openclip")
    (tmp_path / "bare").mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(tmp_path / "saved" / name, tmp_path / "bare")
    lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")[1:48895]
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    hub = hub_server.Hub()
    hub.add("openai/clip-vit-base-patch32", tmp_path / "clip")
    command = [sys.executable, "-c", WITHOUT_OPENCLIP, str(tmp_path / "bare")]
    with hub_server.serve(hub):
        run = subprocess.run(command, capture_output=True, text=True, env=hub.environment(tmp_path / "cache"))
        assert run.returncode == 0, run.stderr
        up_to_end = [ids[: ids.index(49407) + 1] for ids in json.loads(run.stdout)]
        assert up_to_end == [[*filter(None, ids)] for ids in open_clip.SimpleTokenizer()(TEXTS).tolist()]
        hub.repositories.clear()
        run = subprocess.run(command, capture_output=True, text=True, env=hub.environment(tmp_path / "empty"))
    message = r"bare/open_clip\S+: no tokenizer .*, and CLIP's could not be fetched .*; put tokenizer\.json"
    assert run.returncode == 2 and re.search(message, run.stderr), run.stderr
