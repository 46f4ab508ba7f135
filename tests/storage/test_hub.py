"""A hub that accepts connections and then says nothing, or stops in the middle."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIMIT = 1  # seconds, instead of 10


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers requests whose path contains one of ``answered``; of files, only the first bytes."""

    answered: tuple[str, ...]
    released: threading.Event

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if not any(part in self.path for part in self.answered):
            self.released.wait(60)
            return
        info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}
        listing = [{"type": "file", "path": "config.json", "size": 1000, "oid": "0" * 40}]
        body = json.dumps(info if "/revision/" in self.path else listing).encode()
        self.send_response(200)
        size = 1000 if "/resolve/" in self.path else len(body)
        for header in (("Content-Length", str(size)), ("ETag", '"0"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(*header)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.released.wait(60 if size > len(body) else 0)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub(*answered: str) -> Iterator[dict[str, str]]:
    """The environment for a hub that answers only some requests."""
    Hub.answered, Hub.released = answered, threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_ETAG_TIMEOUT": str(LIMIT),
            "HF_HUB_DOWNLOAD_TIMEOUT": str(LIMIT),
        }
        Hub.released.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("answered", "limits"),
    [
        ((), 1),
        pytest.param(("/revision/",), 1, marks=pytest.mark.slow),
        (("/revision/", "/tree/"), 2),
        pytest.param(("/revision/", "/tree/", "/resolve/"), 20, marks=pytest.mark.slow),  # resumed five times
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
    with hub(*answered) as environment:
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
    with hub() as environment:
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
@pytest.mark.parametrize("cached", [True, False])
def test_cached_files_are_used_if_the_hub_is_silent(tmp_path, cached):
    repository = tmp_path / "models--owner--tiny"
    if cached:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "snapshots" / COMMIT).mkdir(parents=True)
        (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    code = "from naturel_jax.storage import hub; print([hub.snapshot('owner/tiny', ['*.json']).name for _ in range(3)])"
    with hub() as environment:
        environment["HF_HUB_CACHE"] = str(tmp_path)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=50)
    assert (run.returncode == 0) == cached
    assert (COMMIT in run.stdout) == cached
