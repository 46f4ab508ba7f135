"""A local photo server that truncates, stalls, fails or sends wrong data, and a small release of photos on it."""

import collections
import contextlib
import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.open_images_files import image_id, photo, row, write_release
from tfds_naturel.open_images import journal

# Answers that go on, but whose body never begins, or never ends: what they begin with, and what they have again.
ENDLESS = {
    "informs": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X: a\r\n"),
}


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, after the responses in ``faults[path]``: a status, ``truncate``, ``stall``, ``html``,
    ``endless``, ``trickle``, ``silent`` or a key of ``ENDLESS``. ``always`` is the response to every GET, if it is set.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = collections.defaultdict(list)
        self.headers: dict[str, dict[str, str]] = {}
        self.moved: set[str] = set()  # paths with a redirect, which ``headers`` have
        self.gets: collections.Counter[str] = collections.Counter()
        self.always: int | str | None = None
        self.delay = 0.0
        self.busy = self.most_busy = self.sent = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # killed clients close the connection
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self._answer(self.server.files.get(self.path))

    def do_GET(self):
        server = self.server
        with server.lock:
            server.gets[self.path] += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            fault = server.faults[self.path].pop(0) if server.faults[self.path] else server.always
        time.sleep(server.delay)
        body = server.files.get(self.path)
        first, _, _ = self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")
        match fault:
            case int():
                self.send_response(fault)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "truncate" | "stall":
                self._answer(body, sent=body[: len(body) // 2])
                if fault == "stall":
                    server.released.wait(10)
            case "silent":
                server.released.wait(10)
            case "endless" | "trickle":
                self._stream(bytes(1 << 16 if fault == "endless" else 1))
            case str() if fault in ENDLESS:
                self._stream(ENDLESS[fault][1], ENDLESS[fault][0])
            case "html":
                self._answer(b"<html><body>Sign in to the network</body></html>")
            case _ if self.path in server.moved:
                self._answer(b"", status=302)
            case _ if body is not None and int(first):
                self._answer(body[int(first) :], status=206)
            case _:
                self._answer(body)
        with server.lock:
            server.busy -= 1

    def _answer(self, body, sent=None, status=200):
        self.send_response(404 if body is None else status)
        self.send_header("Content-Length", str(len(body or b"")))
        for header in self.server.headers.get(self.path, {}).items():
            self.send_header(*header)
        self.end_headers()
        if self.command == "GET" and body:
            self.wfile.write(body if sent is None else sent)

    def _stream(self, chunk, begin=b"HTTP/1.0 200 OK\r\n\r\n"):
        """Sends ``chunk`` again and again, after ``begin``, until the client closes the connection."""
        self.wfile.write(begin)
        while not self.server.released.wait(0 if len(chunk) > 100 else 0.02):
            self.wfile.write(chunk)
            self.server.sent += len(chunk)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


def world(server: Server, folder: Path, n: int) -> list[str]:
    """Writes a release of ``n`` images below ``folder`` and serves their photos; returns arguments for the fetcher."""
    write_release(folder / "annotations", [row(i, "Cat", "on", "Table") for i in range(n)])
    for i in range(n):
        server.files[url_of(i)] = photo(i)
    return ["--out", str(folder), "--images_url", server.url, "--stall", "0.5", "--concurrency", "4"]


def url_of(n: int) -> str:
    """The path of photo ``n`` on the server."""
    return f"/train/{image_id(n)}.jpg"


def file_of(folder: Path, n: int) -> Path:
    """Where photo ``n`` is stored."""
    return folder / "images" / "train" / f"{image_id(n)}.jpg"


def entries(folder: Path) -> dict[str, journal.Entry]:
    """The journal of the photos."""
    return journal.read(folder / "images" / "train" / "journal.csv")
