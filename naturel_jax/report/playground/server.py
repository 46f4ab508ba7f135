"""The server of ``naturel-try``: for one person on this machine, so a request is answered before the next is read.

A page of another server could send requests here, in a browser that runs on this machine. Those have an ``Origin`` of
that server, or, if its name was made to mean this machine (DNS rebinding), its name as ``Host``; both are refused.
"""

import importlib.resources
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from naturel_jax.report.playground.playground import Playground
from tfds_naturel.common import pages
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import load_json
from tfds_naturel.common.photos import MAX_BYTES

ADDRESS = "127.0.0.1"
_MOST_JSON = 1 << 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def listen(port: int) -> socket.socket:
    """A socket on ``port`` of this machine's loopback, 0: any that is free. Raises UserError if it cannot be had."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(f"--port {port}: {error}; choose another, or 0 for any that is free") from error
    listening.listen()
    return listening


def serve(playground: Playground, shown: Mapping[str, Any], listening: socket.socket) -> None:
    """Answers requests until Ctrl-C or SIGTERM. ``shown``: what the page has besides photos and scores."""
    port = listening.getsockname()[1]
    names = {ADDRESS, "localhost"}
    app = make_app(playground, shown, {f"{name}:{port}" for name in names} | (names if port == 80 else set()))
    config = uvicorn.Config(app, lifespan="off", ws="none", proxy_headers=False, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def make_app(playground: Playground, shown: Mapping[str, Any], hosts: Collection[str]) -> Starlette:
    """The application; ``hosts``: the names under which a browser may ask for it."""
    template = importlib.resources.files("naturel_jax.report.playground") / "page.html"
    page = pages.fill(template, data=pages.script_json({**shown, "most_bytes": MAX_BYTES}))

    async def get_page(request: Request) -> Response:
        return HTMLResponse(page)

    async def add_photo(request: Request) -> Response:
        return JSONResponse({"photo": playground.add(await _body(request, MAX_BYTES))})

    async def get_photo(request: Request) -> Response:
        shown = playground.photo(request.path_params["key"]).shown
        return Response(shown.data, media_type=f"image/{shown.form}")

    async def score(request: Request) -> Response:
        fields = await _fields(request)
        return JSONResponse({"scores": playground.scores(fields.get("photo"), fields.get("captions"))})

    async def save(request: Request) -> Response:
        fields = await _fields(request)
        return JSONResponse({"items": playground.save(fields.get("photo"), fields.get("true"), fields.get("false"))})

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = _refusal(request, hosts) or await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/", get_page),
            Route("/photos", add_photo, methods=["POST"]),
            Route("/photos/{key}", get_photo),
            Route("/scores", score, methods=["POST"]),
            Route("/items", save, methods=["POST"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={
            UserError: lambda request, error: _error(400, str(error)),
            OSError: lambda request, error: _error(500, str(error)),  # an item cannot be written
            HTTPException: lambda request, error: _error(error.status_code, error.detail),
            ClientDisconnect: lambda request, error: _error(400, "the page was closed"),  # while it sent a photo
        },
    )


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _refusal(request: Request, hosts: Collection[str]) -> Response | None:
    """The answer to a request that comes from the page of another server."""
    origins = [f"http://{host}" for host in hosts]
    for header, allowed, found in (
        ("Host", hosts, request.headers.getlist("host") or [""]),
        ("Origin", origins, request.headers.getlist("origin")),
    ):
        if foreign := [value for value in found if value not in allowed]:
            return _error(403, f"{header} is {foreign[0]!r:.200}; expected {' or '.join(sorted(allowed))}")
    return None


async def _body(request: Request, most: int) -> bytes:
    """The request's body. Raises HTTPException (413) for one of more than ``most`` bytes, of which no more are kept; it
    is read to its end, since a browser that is still sending shows no answer."""
    data, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            data += chunk
    if size > most:
        raise HTTPException(413, f"{size:,} bytes; expected at most {most:,}")
    return bytes(data)


async def _fields(request: Request) -> dict[str, Any]:
    """The fields of a request in JSON. Raises UserError for anything else."""
    fields = load_json("request", await _body(request, _MOST_JSON), "reload the page")
    if not isinstance(fields, dict):
        raise UserError(f"request: a {type(fields).__name__}; expected fields: reload the page")
    return fields
