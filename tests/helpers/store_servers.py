"""Object stores on loopback, with faults: a GCS of our own (``gcs_server``) and moto's S3."""

import contextlib
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock
from urllib.parse import quote, unquote

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from tests.helpers.gcs_server import GcsApp

BUCKET = "bucket"
_STALL_S = 30

# (method, path) -> what happens to the request: an HTTP status, "lost" (carried out, but the answer is a 503), "cut"
# (half an answer), "stall" (half an answer, and nothing more), "flip" (one bit is another, a different one each time),
# "other" (other content, the same each time), "short" (the last byte is missing, and the length says so), seconds to
# wait, or None.
Fault = Callable[[str, str], int | str | float | None]


class Server(NamedTuple):
    """A running store. ``url``: of its bucket; ``env``: what its clients need; ``faults``: asked for each request;
    ``requests``: those so far, as "METHOD path", and the ``ranges`` and ``authorizations`` in them."""

    url: str
    env: dict[str, str]
    faults: list[Fault]
    requests: list[str]
    ranges: list[str]
    authorizations: list[str]

    def put(self, name: str) -> None:
        """Writes an empty object, with a name that obstore may refuse."""
        address = self.env.get("STORAGE_EMULATOR_HOST") or self.env["AWS_ENDPOINT_URL"]
        url = f"{address}/{BUCKET}/{quote(name, safe='')}"
        urllib.request.urlopen(urllib.request.Request(url, b"", method="PUT")).close()


class _Quiet(WSGIRequestHandler):
    def log(self, *args, **kwargs):
        pass


def _with_faults(app, server: Server, one_at_a_time: threading.Lock):
    def faulty(environ, start_response):
        method, path = environ["REQUEST_METHOD"], unquote(environ["RAW_URI"])
        server.requests.append(f"{method} {path}")
        for header, found in (("HTTP_RANGE", server.ranges), ("HTTP_AUTHORIZATION", server.authorizations)):
            if header in environ:
                found.append(environ[header])
        fault = next((found for ask in server.faults if (found := ask(method, path)) is not None), None)
        if isinstance(fault, int):
            return Response("no", fault)(environ, start_response)
        if isinstance(fault, float):
            time.sleep(fault)
        with one_at_a_time:  # moto checks a precondition and writes in two steps
            response = Response.from_app(app, environ, buffered=True)
        if fault == "lost":
            return Response("no", 503)(environ, start_response)
        content = response.get_data()
        if fault == "flip":
            n = len(server.requests)
            response.set_data(content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :])
        if fault == "other":
            response.set_data(content[::-1])
        if fault == "short":
            response.set_data(content[:-1])
        if fault in ("cut", "stall"):
            half = _half(content, _STALL_S if fault == "stall" else 0)
            response = Response(half, response.status_code, response.headers, direct_passthrough=True)
            response.headers["Content-Length"] = str(len(content))
        return response(environ, start_response)

    return faulty


def _half(content: bytes, stall_s: float) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    time.sleep(stall_s)
    raise ConnectionAbortedError


def _app(kind: str):
    if kind == "gs":
        return GcsApp(BUCKET)
    from moto.server import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


@contextlib.contextmanager
def serve(kind: str) -> Iterator[Server]:
    """Runs an empty store of the kind ``gs`` or ``s3``, with one bucket."""
    env = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    server = Server(f"{kind}://{BUCKET}", env, [], [], [], [])
    http = make_server(
        "127.0.0.1", 0, _with_faults(_app(kind), server, threading.Lock()), threaded=True, request_handler=_Quiet
    )
    http.daemon_threads = True
    address = f"http://127.0.0.1:{http.server_port}"
    env[{"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}[kind]] = address
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        if kind == "s3":
            import boto3

            with mock.patch.dict(os.environ, env):
                boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
    finally:
        http.shutdown()
        http.server_close()
