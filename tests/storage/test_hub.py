"""A hub that accepts connections and then says nothing, or stops in the middle."""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from naturel_jax.storage import hub
from tests.helpers import loopback
from tfds_naturel.common import addresses
from tfds_naturel.common.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIMIT = 1  # seconds, instead of 10


CONTENT = b'{"a": 1}'
STATED = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers requests whose path has one of ``answered`` in it, and offers files by Xet, too; ``change`` is what is
    wrong with one of the answers."""

    change = ""
    answered: tuple[str, ...] = ("",)
    released = threading.Event()  # of those who wait for an answer

    def do_GET(self):
        if not any(part in self.path for part in self.answered):
            self.released.wait(60)
            return
        with contextlib.suppress(ConnectionError):  # the client closes the connection
            while self.change == "header":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.02)
        if self.change == "header":
            return
        if self.change == "unlisted" and "/resolve/" in self.path:
            stated = hashlib.sha1(self.path.encode()).hexdigest()
            return self.answer(200, bytes(40 << 20), {"ETag": f'"{stated}"', "X-Repo-Commit": COMMIT})
        if "/resolve/" in self.path:
            headers = {"ETag": f'"{STATED}"', "X-Repo-Commit": COMMIT, "X-Xet-Hash": "ab" * 32}
            headers["X-Xet-Refresh-Route"] = f"http://{self.headers['Host']}/xet-read-token"
            if self.change.startswith(('"', "W/")):
                return self.answer(200, CONTENT, headers | {"ETag": self.change})
            if self.change.startswith("http"):
                linked = {"X-Linked-Etag": f'"{STATED}"', "X-Linked-Size": str(len(CONTENT))}
                return self.answer(302, b"", headers | linked | {"Location": self.change})
            if self.change == "half":
                self.answer(200, CONTENT[:4], headers | {"Content-Length": str(len(CONTENT))})
                self.released.wait(60)
                return
            return self.answer(200, CONTENT.replace(b"1", b"2") if self.change == "checksum" else CONTENT, headers)
        info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}
        info = {"no id": {"sha": COMMIT}, "a path": info | {"sha": "../../../x"}}.get(self.change, info)
        size = 65 << 20 if self.change == "large" else len(CONTENT)
        tree = [{"type": "file", "path": "config.json", "size": size, "oid": STATED}]
        if self.change == "unlisted":
            tree = [tree[0] | {"path": name, "size": -(10**15)} for name in ("a.json", "b.json")]
        body = json.dumps(info if "/revision/" in self.path else tree if "/tree/" in self.path else {}).encode()
        broken = {"broken": body[:-2], "nested": b"[" * 100_000} if "/revision/" in self.path else {}
        again = {"Link": f'<http://{self.headers["Host"]}{self.path}>; rel="next"'} if self.change == "endless" else {}
        self.answer(200, broken.get(self.change, body), again)

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for header in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(*header)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def silent(*answered: str) -> Iterator[dict[str, str]]:
    """The environment for a hub that answers only some requests, and of files only the first bytes."""
    with pytest.MonkeyPatch.context() as patch, loopback.running(Hostile) as address:
        for name, value in (("change", "half"), ("answered", answered), ("released", threading.Event())):
            patch.setattr(Hostile, name, value)
        limits = dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), str(LIMIT))
        yield os.environ | limits | {"HF_ENDPOINT": address}
        Hostile.released.set()


@pytest.mark.parametrize(
    ("answered", "limits"),
    [
        ((), 1),
        pytest.param(("/revision/",), 1, marks=pytest.mark.slow),
        (("/revision/", "/tree/"), 2),
        pytest.param(("/revision/", "/tree/", "/resolve/"), 2, marks=pytest.mark.slow),  # resumed once
    ],
    ids=["never", "info only", "listing only", "half a file"],
)
def test_silent_hub_gives_one_line(tmp_path, answered, limits):
    code = (
        "from naturel_jax.storage import hub; from tfds_naturel.common import cli\n"
        "import time; start = time.monotonic()\n"
        "def main(arguments):\n"
        "    try: hub.snapshot('owner/tiny', ['*.json'])\n"
        "    finally: print(time.monotonic() - start)\n"
        "cli.run(main)"
    )
    with silent(*answered) as environment:
        environment["HF_HUB_CACHE"] = str(tmp_path)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=50)
    error = [line for line in run.stderr.splitlines() if "error: " in line]
    assert run.returncode == 2 and len(error) == 1 and "Traceback" not in run.stderr, run.stderr
    assert "owner/tiny on http" in error[0]
    assert (
        float(run.stdout) < limits * LIMIT + 4
    )  # huggingface_hub asks for a list of agents and sleeps between attempts


@pytest.mark.slow
def test_benchmark_and_model_on_a_silent_hub_give_one_line(tmp_path):
    commands = {
        "naturel_jax.benchmarks": ["--dir", str(tmp_path), "--download", "bivlc"],
        "naturel_jax.convert": ["hf:owner/tiny", str(tmp_path / "out")],
    }
    with silent() as environment:
        environment["HF_HUB_CACHE"] = str(tmp_path / "cache")
        for module, arguments in commands.items():
            start = time.monotonic()
            command = [sys.executable, "-m", module, *arguments]
            run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
            assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
            assert run.stderr.splitlines()[-1].startswith(f"{module}: error: ")
            assert "owner/tiny on http://127" in run.stderr or "imirandam/BiVLC on http://127" in run.stderr
            assert time.monotonic() - start < 30


@pytest.mark.slow
def test_cached_files_are_used_if_the_hub_is_silent(tmp_path):
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "blobs").mkdir()
    blob = repository / "blobs" / hashlib.sha1(b"blob 2\0{}").hexdigest()
    blob.write_text("{}")
    (repository / "snapshots" / COMMIT / "config.json").symlink_to(blob)
    code = "from naturel_jax.storage import hub; print([hub.snapshot('owner/tiny', ['*.json']).name for _ in range(3)])"
    with silent() as environment:
        environment["HF_HUB_CACHE"] = str(tmp_path)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=50)
    assert run.returncode == 0 and COMMIT in run.stdout


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """``Hostile``, at the address of the hub."""
    with loopback.running(Hostile) as address:
        url = address + "/{repo_id}/resolve/{revision}/{filename}"
        fields = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        for name, value in (fields | {"AGENT_HARNESSES_PATH": str(tmp_path / "agents")}).items():
            monkeypatch.setattr(constants, name, value)
        yield


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", ""),
        ("checksum", f"the hub states {STATED}"),
        ('"../../../written"', "answers with ETag '\"../../../written\"', which is a path"),
        ('W/"/tmp/written"', "which is a path"),
        ("broken", "answers broken JSON"),
        ("nested", "recursion"),
        ("no id", "expected an object with a sound 'id'"),
        ("a path", "expected an object with a sound 'sha'"),
        ("http://169.254.169.254/latest", "expected https and a public address"),
        ("https://10.0.0.1/x", "expected https and a public address"),
        ("large", "'config.json' has 68,157,440 bytes; expected at most 67,108,864 in all files of *.json"),
        ("unlisted", "an answer of more than 67,108,864 bytes, or several together"),
        ("header", "no whole answer in 1 s"),
        ("endless", "lists files without end: more than 67,108,864 bytes or 1000 pages"),
    ],
)
def test_hostile_hub_gives_one_line_and_no_file(tmp_path, monkeypatch, change, message):
    Hostile.change = change
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT") if change == "header" else ():
        monkeypatch.setattr(constants, name, 0.5)
    try:
        folder = hub.snapshot("owner/tiny", ["*.json"], small=True)
        assert not message and (folder / "config.json").read_bytes() == CONTENT
    except UserError as error:
        assert message and message in str(error) and "\n" not in str(error)
        assert not list(tmp_path.rglob("config.json")) and not list(tmp_path.rglob("written*"))


@pytest.mark.usefixtures("answering")
def test_files_do_not_come_by_xet(monkeypatch):
    """Its client has none of the limits here. Whoever else downloads in this process may use it."""
    Hostile.change = ""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("huggingface_hub.file_download.xet_get", lambda **_: pytest.fail("by Xet"))
    assert (hub.snapshot("owner/tiny", ["*.json"]) / "config.json").read_bytes() == CONTENT
    assert not constants.HF_HUB_DISABLE_XET


@pytest.mark.usefixtures("answering")
def test_small_files_that_are_in_the_cache_have_a_limit_too(monkeypatch):
    """Others fetch them without one, and then the hub is not asked for its listing again."""
    Hostile.change = ""
    assert hub.snapshot("owner/tiny", ["*.json"], small=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "LARGEST", len(CONTENT) - 1)
    assert hub.snapshot("owner/tiny", ["*.json"])
    with pytest.raises(UserError, match=r"'config\.json' has 8 bytes; expected at most 7 in all files of \*\.json"):
        hub.snapshot("owner/tiny", ["*.json"], small=True)


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("layout", ["links", "links to files of all repositories", "no links"])
def test_a_file_of_an_earlier_download_is_checked(tmp_path, monkeypatch, caplog, layout):
    """One that a connection that broke later, or a kill, has left."""
    Hostile.change = ""
    if layout == "no links":
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda _: False)
    file = hub.snapshot("owner/tiny", ["*.json"]) / "config.json"
    if layout == "links to files of all repositories":  # by Xet's checksum, of another kind
        blob = file.resolve().rename(tmp_path / ("0" * 64))
        (file.parents[2] / "blobs" / STATED).symlink_to(blob)
    assert hub.snapshot("owner/tiny", ["*.json"]) == file.parent and file.is_symlink() == (layout != "no links")
    file.write_bytes(CONTENT.replace(b"1", b"2"))
    os.utime(file, (0, 0))
    if layout == "no links":
        with monkeypatch.context() as offline:
            offline.setattr(constants, "HF_HUB_OFFLINE", True)
            hub.snapshot("owner/tiny", ["*.json"])
        assert "owner/tiny: its files are not checked" in caplog.text
    with pytest.raises(UserError, match=f"the hub states {STATED}; download discarded"):
        hub.snapshot("owner/tiny", ["*.json"])
    assert (hub.snapshot("owner/tiny", ["*.json"]) / "config.json").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("source", "target", "followed"),
    [
        ("https://huggingface.co/x", "https://1.1.1.1/x", True),
        ("https://huggingface.co/x", "https://huggingface.co/y", True),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:2/x", True),
        ("http://mirror.example/x", "http://mirror.example/y", True),
        ("https://huggingface.co/x", "http://1.1.1.1/x", False),
        ("https://huggingface.co/x", "http://huggingface.co/y", False),
        ("https://huggingface.co/x", "https://127.0.0.1/x", False),
        ("https://huggingface.co/x", "https://169.254.169.254/x", False),
        ("https://huggingface.co/x", "https://[::ffff:10.0.0.1]/x", False),
        ("https://huggingface.co/x", "https://[64:ff9b::10.0.0.1]/x", False),
        ("https://huggingface.co/x", "https://[64:ff9b::8.8.8.8]/x", True),
        ("https://huggingface.co/x", "file:///etc/passwd", False),
        ("http://127.0.0.1:1/x", "http://192.168.0.1/x", False),
    ],
)
def test_redirects_lead_to_public_addresses(source, target, followed):
    if followed:
        return addresses.check_redirect(source, target)
    with pytest.raises(addresses.Refused, match="expected https and a public address"):
        addresses.check_redirect(source, target)


@pytest.mark.parametrize("revision", ["../../refs", "a/../b", "/etc/x", "a//b", "a/", "-a"])
def test_revision_that_is_no_name_is_refused(revision):
    """The cache has a file of its name."""
    with pytest.raises(UserError, match="not the name of a branch or tag"):
        hub.snapshot("owner/tiny", ["*.json"], revision=revision)
