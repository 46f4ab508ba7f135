"""Hub models, from the cache and from a local hub."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from model_files import save_hf, tiny

from naturel_jax import weights
from naturel_jax.weights import export
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


class Hub(http.server.BaseHTTPRequestHandler):
    """A local hub: the responses that ``snapshot_download`` needs, from ``folder``."""

    folder: Path
    requested: list[str]
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.path.startswith("/api/models/owner/tiny/revision/"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            body = json.dumps({"id": "owner/tiny", "sha": self.commit, "siblings": files}).encode()
        elif self.path.startswith(f"/api/models/owner/tiny/tree/{self.commit}"):
            sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
            files = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            body = json.dumps(files).encode()
        elif self.path == f"/owner/tiny/resolve/{self.commit}/{name}" and (self.folder / name).is_file():
            body = (self.folder / name).read_bytes()
            self.requested.append(name)
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for header in (("Content-Length", str(len(body))), ("ETag", f'"{hash(body)}"'), ("X-Repo-Commit", self.commit)):
            self.send_header(*header)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


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
    Hub.folder, Hub.requested = tmp_path / "repository", []
    export.save(Hub.folder, *tiny("tiny-clip"), form="hf" if form == "hf" else "openclip")
    (Hub.folder / other).write_bytes(b"weights that are not needed")
    if form == "openclip":
        (Hub.folder / "config.json").write_text('{"architecture": "vit_tiny"}')
    if form == "both":
        (Hub.folder / "config.json").write_text('{"model_type": "clip"}')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from naturel_jax import weights; from tfds_naturel import cli; cli.set_up_logging(); "
        f"c, *_ = weights.load('{source}:owner/tiny'); print(c.image.size)"
    )
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_XET": "1",
    }
    try:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    finally:
        server.shutdown()
        server.server_close()
    assert run.stdout.strip() == "48", run.stderr
    assert re.search(rf"owner/tiny: fetching .*{wanted}.* from {address}", run.stderr)  # downloads are logged
    assert {wanted, "config.json", "tokenizer.json", "preprocessor_config.json"} <= set(Hub.requested)
    assert other not in Hub.requested
