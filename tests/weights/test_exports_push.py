"""``naturel-convert --push`` to a hub on loopback: creates the repository, commits, and explains what goes wrong."""

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import huggingface_hub
import pytest

from naturel_jax import convert
from naturel_jax.weights import export, push
from tests.helpers import hub_server
from tests.helpers.model_files import tiny
from tfds_naturel.common.errors import UserError

# huggingface_hub's own, of httpx, when it uploads to LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_" + "sEcReT" * 6


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "model"
    export.save(folder, *tiny("tiny-clip"), form="hf")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub where TOKEN, which this process has, may write to ``owner``, used by this process as the only one."""
    with hub_server.serve(hub_server.Hub(tokens={TOKEN: ("owner",)})) as server:
        api = huggingface_hub.HfApi(endpoint=server.address)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield server


def test_pushed_repository_has_the_files_of_the_folder(hub, source, tmp_path, capfd):
    """Weights in LFS, the rest in git; a second push with a change is a second commit."""
    out = tmp_path / "out"
    convert.main([str(source), str(out), "--to", "openclip", "--push", "owner/tiny", "--private"])
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert hub.repositories == {"owner/tiny": files} and hub.private == ["owner/tiny"]
    assert list(hub.lfs.values()) == [files["open_clip_model.safetensors"]]
    assert b'"hf_tokenizer_name": "owner/tiny"' in files["open_clip_config.json"]
    assert b'"hf-hub:owner/tiny"' in files["README.md"]
    output = "".join(capfd.readouterr())
    assert f"uploaded {out} to {hub.address}/owner/tiny" in output and TOKEN not in output
    (out / "README.md").write_text("---\nlicense: mit\n---\n# Edited\n")
    push.push(out, "owner/tiny", private=False)
    assert hub.repositories["owner/tiny"]["README.md"].endswith(b"# Edited\n")


def test_private_model_is_not_pushed_to_a_public_repository(hub, source):
    hub.repositories["owner/tiny"] = {}
    with pytest.raises(UserError, match="there is a public repository of this name; nothing was uploaded"):
        push.push(source, "owner/tiny", private=True)
    assert not hub.repositories["owner/tiny"] and not hub.lfs


def test_redirects_of_the_hub_are_checked(hub, source):
    hub.redirected = "preupload", "http://169.254.169.254/latest"
    with pytest.raises(UserError, match=r"redirects to http://169\.254\.169\.254/latest; expected https and a public"):
        push.push(source, "owner/tiny", private=False)


def test_hub_may_be_silent_for_longer_before_it_answers_a_commit(hub, source, monkeypatch):
    monkeypatch.setattr(push, "SILENCE", 0.5)
    patient = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", patient)  # between its attempts
    hub.slow = "commit"
    push.push(source, "owner/tiny", private=False)
    assert hub.repositories["owner/tiny"]
    hub.slow = "preupload"
    with pytest.raises(UserError, match="timed out"):
        push.push(source, "owner/tiny", private=False)


def test_dry_run_lists_the_files_and_contacts_nobody(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    out = tmp_path / "out"
    convert.main([str(source), str(out), "--push", "owner/tiny", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines if line.startswith("  ")}
    assert listed == {path.name: path.stat().st_size for path in out.iterdir()}
    total = sum(listed.values())
    assert lines[-2] == f"would upload {len(listed)} files, {total:,} bytes, to owner/tiny (public if it is new)"
    assert lines[-1].startswith("to upload this folder: hf upload owner/tiny ")


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["--push", "owner/tiny"], None, "--push owner/tiny: there is no token; run `hf auth login`, or set HF_TOKEN"),
        (["--push", "tiny"], TOKEN, "--push 'tiny': not a repository of the hub; expected owner/name, of letters"),
        (["--push", "owner/a--b"], TOKEN, "--push 'owner/a--b': not a repository of the hub; expected owner/name"),
        (["--private"], TOKEN, "--private needs --push OWNER/NAME"),
        (["--dry_run"], TOKEN, "--dry_run needs --push OWNER/NAME"),
    ],
)
def test_mistakes_are_reported_before_the_conversion(hub, source, tmp_path, monkeypatch, arguments, token, message):
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError) as error:
        convert.main([str(source), str(tmp_path / "out"), *arguments])
    assert str(error.value).startswith(message) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("other/tiny", TOKEN, "the token may not write there; use one with write access to other"),
        ("owner/tiny", TOKEN + "x", "the hub does not accept the token; run `hf auth login`, or set HF_TOKEN"),
    ],
)
def test_refusals_of_the_hub_are_one_line(hub, source, monkeypatch, repository, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as error:
        push.push(source, repository, private=False)
    text = str(error.value)
    assert message in text and text.endswith(f"`hf upload {repository} {source}` uploads it")
    assert TOKEN not in text and "\n" not in text and not hub.repositories


def test_hub_that_is_not_there_is_one_line(source, tmp_path):
    """Also without the password of its address, as is a warning of the library."""
    code = "import contextlib; from pathlib import Path; from naturel_jax.weights import push\n"
    code += "from tfds_naturel.common import cli; from huggingface_hub import constants, utils\n"
    code += "with contextlib.suppress(Exception): utils.http_backoff('GET', constants.ENDPOINT, max_retries=0)\n"
    code += "cli.run(lambda arguments: print(push.push(Path(arguments[0]), 'owner/tiny', private=False)))"
    nobody = hub_server.Hub(address="http://user:pA55@127.0.0.1:9").environment(tmp_path, HF_TOKEN=TOKEN)
    command = [sys.executable, "-c", code, os.fspath(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=nobody)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: --push owner/tiny: http://127.0.0.1:9: " in done.stderr and TOKEN not in done.stderr
    assert "thrown while requesting GET http://127.0.0.1:9" in done.stderr and "pA55" not in done.stderr
