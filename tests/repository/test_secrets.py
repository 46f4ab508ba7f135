"""Tokens and keys in the environment reach no file and no message."""

import http.server
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import loopback
from tests.helpers.worlds import ROOT, Run

SECRETS = {"HF_TOKEN": "hf_" + "sEcReT" * 6, "WANDB_API_KEY": "0123456789abcdef" * 2 + "5ec2e7"}


class Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that rejects the token, and notes the requests that had it."""

    authorized: list[str]

    def do_GET(self):
        self.authorized.append(self.headers.get("Authorization", ""))
        self.send_error(401)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_tokens_reach_no_file_and_no_message(tmp_path):
    Refusing.authorized = []
    run = Run(tmp_path / "run", env=SECRETS)
    run.finish()
    with loopback.running(Refusing) as address:
        environment = {**os.environ, **SECRETS, "HF_ENDPOINT": address}
        environment["HF_HUB_CACHE"] = str(tmp_path / "cache")
        for source, status in ((f"run:{run.workdir}", 0), ("hf:owner/private", 2)):
            command = [sys.executable, "-m", "naturel_jax.convert", source, tmp_path / f"to-{source[:2]}"]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == status, done.stderr
            (tmp_path / f"{source[:2]}.log").write_text(done.stdout + done.stderr)
    assert f"Bearer {SECRETS['HF_TOKEN']}" in Refusing.authorized, "the token was not even used"
    names = {path.name for path in files(tmp_path)}
    assert {"config.json", "metrics.jsonl", "README.md", "run.0.log", "hf.log"} <= names
    for path in files(tmp_path):
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path
