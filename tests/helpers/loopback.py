"""Web servers on this machine."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server whose requests the handler answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves ``root``; yields (address, paths requested so far). The first request for a path that contains ``flaky``
    fails.
    """
    root.mkdir(parents=True, exist_ok=True)
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            requested.append(self.path)
            if "flaky" in self.path and requested.count(self.path) == 1:
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    with running(Handler) as address:
        yield address, requested
