"""HTTP downloads that survive bad networks: retried, resumed, and never half a file under its final name."""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import tqdm

from tfds_naturel.photos import MAX_BYTES, BadPhoto
from tfds_naturel.releases import OfficialFile, md5_of

T = TypeVar("T")

_MISSING = frozenset({403, 404, 410})  # S3 answers 403 for a key that is not there when listing is not allowed
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK = 1 << 18


class MissingKey(Exception):
    """The server says that there is no such file."""


class Transient(Exception):
    """A failure that may pass: asks to be tried again, not before ``after`` seconds."""

    def __init__(self, detail: str, after: float = 0.0):
        super().__init__(detail)
        self.after = after


@dataclasses.dataclass(frozen=True)
class Policy:
    """How long to wait, in seconds, and how often to try. A try without a byte for ``stall`` seconds is given up."""

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 60.0
    stall: float = 30.0


def session(policy: Policy, connections: int) -> aiohttp.ClientSession:
    """A client with at most ``connections`` open connections."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.stall, sock_read=policy.stall)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections), timeout=timeout)


async def retried(attempt: Callable[[], Awaitable[T]], policy: Policy) -> T:
    """Awaits ``attempt()`` until it succeeds. Raises Transient after ``policy.attempts`` tries, other errors at once.

    Waits double from ``first_wait``, with full jitter, and are never shorter than the server asks for.
    """
    for number in range(policy.attempts):
        try:
            return await attempt()
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = Transient(f"{type(error).__name__}: {error}")
        except Transient as error:
            failure = error
        if number + 1 < policy.attempts:
            longest = min(policy.longest_wait, policy.first_wait * 2**number)
            asked = min(policy.longest_wait, failure.after)
            await asyncio.sleep(max(asked, random.uniform(0, longest)))
    raise failure


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises MissingKey or Transient for the statuses that mean it, aiohttp.ClientResponseError for other errors."""
    if response.status in _MISSING:
        raise MissingKey(f"{response.url}: HTTP {response.status}")
    if response.status in _TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise Transient(f"{response.url}: HTTP {response.status}", float(after) if after.isdecimal() else 0.0)
    response.raise_for_status()


async def get_bytes(client: aiohttp.ClientSession, url: str) -> bytes:
    """The body at ``url``, at most ``MAX_BYTES`` of it. Raises MissingKey, Transient, BadPhoto, aiohttp.ClientError."""
    async with client.get(url) as response:
        check_status(response)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > MAX_BYTES:
                raise BadPhoto("too_large", f"{url}: more than {MAX_BYTES:,} bytes")
        return bytes(body)


async def size_of(client: aiohttp.ClientSession, url: str) -> int | None:
    """The size that the server announces, None where it has no such file. Raises Transient, aiohttp.ClientError."""
    async with client.head(url) as response:
        if response.status in _MISSING:
            return None
        check_status(response)
        return response.content_length


async def get_file(client: aiohttp.ClientSession, file: OfficialFile, url: str, path: Path, policy: Policy) -> None:
    """Downloads an official file to ``path``, going on where an earlier try stopped.

    Raises ValueError when what the server sends is not the official file, else as ``retried`` does.
    """
    part = path.with_name(path.name + ".part")
    with tqdm.tqdm(total=file.bytes, unit="B", unit_scale=True, desc=file.name) as progress:
        await retried(lambda: _append(client, file, url, part, progress), policy)
    found = await asyncio.to_thread(md5_of, part)
    if found != file.md5:
        part.unlink()
        raise ValueError(f"{url}: md5 {found}, the official {file.name} has {file.md5}; nothing of it was kept")
    part.replace(path)


async def _append(client: aiohttp.ClientSession, file: OfficialFile, url: str, part: Path, progress: tqdm.tqdm) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= file.bytes:
        return
    async with client.get(url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        check_status(response)
        if response.status != 206:
            have = 0
        progress.update(have - progress.n)
        with part.open("ab" if have else "wb") as f:
            async for chunk in response.content.iter_chunked(_CHUNK):
                f.write(chunk)
                progress.update(len(chunk))
    if part.stat().st_size < file.bytes:
        raise Transient(f"{url}: ended after {part.stat().st_size:,} of {file.bytes:,} bytes")
