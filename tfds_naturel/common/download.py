"""HTTP downloads over unreliable networks and from untrusted servers: retried, resumed, limited in size, ended when the
server falls silent, and never a partial file under its final name.

``NATUREL_MIRROR=http://mirror.example/files`` in the environment takes ``https://HOST/PATH`` from
``http://mirror.example/files/HOST/PATH``. Known sizes and checksums are still checked.
"""

import asyncio
import contextlib
import dataclasses
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import aiohttp
import yarl

from tfds_naturel.common import addresses
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, unlinked
from tfds_naturel.common.progress import Progress

T = TypeVar("T")

SLOWEST = 1000  # bytes per second; a server that sends less counts as silent

_MISSING = frozenset({403, 404, 410})  # S3 answers 403 for a missing key when listing is not allowed
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_HTTP = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_CHUNK = 1 << 18


class MissingKey(Exception):
    """The server reports that the file does not exist, or that it is where no redirect is followed to."""


class TooLarge(ValueError):
    """The body is larger than the caller's limit."""


class Transient(Exception):
    """A failure worth retrying, after at least ``after`` seconds."""

    def __init__(self, detail: str, after: float = 0.0):
        super().__init__(detail)
        self.after = after


@dataclasses.dataclass(frozen=True)
class Policy:
    """Number of attempts, and waits in seconds. An attempt fails if connecting takes ``stall`` seconds, or if it
    receives nothing, or less than ``SLOWEST``, for as long.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 60.0
    stall: float = 30.0


def mirrored(url: str) -> str:
    """``url``, or its address on the mirror that the environment names."""
    mirror = os.environ.get("NATUREL_MIRROR", "")
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


def session(policy: Policy, connections: int) -> aiohttp.ClientSession:
    """A client with at most ``connections`` open connections. Bodies are never unpacked, so none can grow; redirects
    are followed to https and public addresses only (``addresses``)."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.stall, sock_read=policy.stall)
    connector = aiohttp.TCPConnector(limit=connections)
    plain, trace = {"Accept-Encoding": "identity"}, aiohttp.TraceConfig()
    trace.on_request_redirect.append(_check_redirect)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=plain, auto_decompress=False, trace_configs=[trace]
    )


async def _check_redirect(client: object, context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
    """Raises MissingKey for a redirect that is not to be followed."""
    del client, context
    source = redirect.response.url
    try:
        headers = redirect.response.headers  # as aiohttp reads them
        target = source.join(yarl.URL(headers.get("Location") or headers.get("URI") or ""))
        await asyncio.to_thread(addresses.check_redirect, str(source), str(target))
    except ValueError as error:
        raise MissingKey(str(error)) from error


async def retried(attempt: Callable[[], Awaitable[T]], policy: Policy) -> T:
    """Awaits ``attempt()`` until it succeeds. Raises Transient after ``policy.attempts`` tries, other errors at once,
    among them those of aiohttp for a ``url`` that is not an HTTP address.

    Waits double from ``first_wait``, with full jitter, and are at least as long as the server requests.
    """
    number = 0
    while True:
        try:
            return await attempt()
        except (aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, _NOT_HTTP) and not isinstance(error, aiohttp.RedirectClientError):
                raise
            failure = Transient(f"{type(error).__name__}: {error}")
        except Transient as error:
            failure = error
        number += 1
        if number >= policy.attempts:
            raise failure
        longest = min(policy.longest_wait, policy.first_wait * 2 ** (number - 1))
        requested = min(policy.longest_wait, failure.after)
        await asyncio.sleep(max(requested, random.uniform(0, longest)))


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises MissingKey or Transient depending on the status, aiohttp.ClientResponseError for any other error."""
    if response.status in _MISSING:
        raise MissingKey(f"{response.url}: HTTP {response.status}")
    if response.status in _TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise Transient(f"{response.url}: HTTP {response.status}", float(after) if after.isdecimal() else 0.0)
    response.raise_for_status()


@contextlib.asynccontextmanager
async def _get(
    client: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, of whose headers none may be missing when twice the time has passed in which a server
    may be silent: ``sock_read`` begins anew with each byte. Raises TimeoutError."""
    async with asyncio.timeout(2 * client.timeout.sock_read if client.timeout.sock_read else None):
        response = await client.get(mirrored(url), headers=headers)
    async with response:
        yield response


async def get_bytes(client: aiohttp.ClientSession, url: str, limit: int) -> bytes:
    """The body at ``url``. Raises TooLarge beyond ``limit`` bytes, MissingKey, Transient, aiohttp.ClientError."""
    async with _get(client, url, {}) as response:
        check_status(response)
        if (response.content_length or 0) > limit:
            raise TooLarge(f"{url}: {response.content_length:,} bytes, more than {limit:,}")
        body = bytearray()
        async for chunk in _chunks(client, response):
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"{url}: more than {limit:,} bytes")
        return bytes(body)


async def _chunks(client: aiohttp.ClientSession, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body, as it arrives. Raises Transient if it is slower than ``SLOWEST``, TimeoutError if it stops."""
    window = client.timeout.sock_read or 0.0
    start, received = time.monotonic(), 0
    while True:
        async with asyncio.timeout(window or None):  # chunks may have headers and trailers without end
            chunk = await response.content.read(_CHUNK)
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        elapsed = time.monotonic() - start
        if elapsed >= window:
            if received < SLOWEST * elapsed:
                raise Transient(f"{response.url}: {received:,} bytes in {elapsed:.0f} s; expected {SLOWEST:,} a second")
            start, received = time.monotonic(), 0


async def get_file(client: aiohttp.ClientSession, url: str, path: Path, *, size: int, md5: str, policy: Policy) -> None:
    """Downloads a file of known ``size`` in bytes and MD5 to ``path``, resuming where an earlier attempt stopped.

    Raises UserError if the server sends a different file (it is discarded), or one of another size (a sign-in page);
    otherwise what ``retried`` raises.
    """
    part = unlinked(path.with_name(path.name + ".part"))
    with Progress(total=size, unit="B", unit_scale=True, desc=path.name) as progress:
        await retried(lambda: _append(client, url, part, size, progress), policy)
    actual = await asyncio.to_thread(md5_of, part)
    if actual != md5:
        part.unlink()
        raise UserError(f"{url}: md5 {actual}; expected {md5} for {path.name}; download discarded, check the URL")
    part.replace(path)


async def _append(client: aiohttp.ClientSession, url: str, part: Path, size: int, progress: Progress) -> None:
    received = part.stat().st_size if part.exists() else 0
    if received >= size:
        return
    async with _get(client, url, {"Range": f"bytes={received}-"} if received else {}) as response:
        check_status(response)
        if response.status != 206:
            received = 0
        if response.content_length not in (None, size - received):
            total = received + (response.content_length or 0)
            raise UserError(f"{url}: {total:,} bytes; expected {size:,} for {part.stem}; check the URL and the network")
        progress.update(received - progress.n)
        with part.open("ab" if received else "wb") as f:
            async for chunk in _chunks(client, response):
                f.write(chunk[: size + 1 - f.tell()])  # one extra byte fails the MD5 check and stops an endless body
                progress.update(len(chunk))
                if f.tell() > size:
                    return
    if part.stat().st_size < size:
        raise Transient(f"{url}: closed after {part.stat().st_size:,} of {size:,} bytes")
