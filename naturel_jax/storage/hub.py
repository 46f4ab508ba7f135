"""Snapshots of repositories on the Hugging Face hub, through ``huggingface_hub`` with its cache, resumption, tokens and
offline mode (``HF_HUB_OFFLINE=1``).

``huggingface_hub`` waits forever for the answer to some requests, retries others for minutes, follows any redirect and
checks the size of a file, but not its checksum; Xet, if it is installed, downloads past its client. Here Xet is off,
every request has a timeout, the larger of ``HF_HUB_ETAG_TIMEOUT`` and ``HF_HUB_DOWNLOAD_TIMEOUT`` (10 s by default), in
which it must also receive ``SLOWEST`` bytes a second, and is retried only once; redirects are checked (``addresses``),
answers of the API are of the form that they should have, and a file has the checksum that the hub states.
"""

import concurrent.futures
import contextlib
import fnmatch
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from tfds_naturel.common import addresses
from tfds_naturel.common.errors import UserError

if TYPE_CHECKING or int(huggingface_hub.__version__.split(".")[0]) >= 2:
    import httpx2 as httpx
else:  # before it moved to the successor, which has the same names
    import httpx

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

SLOWEST = 1000  # bytes per second; a server that sends less counts as silent
_MOST_PAGES = 1000  # of a listing; a repository should have at most 100,000 files, and a page has 1,000
LARGEST = 64 << 20  # bytes of small files, and of an answer that is not a file, or does not say how large it is
_NO_REVISION = re.compile(r"^[/-]|//|/$|\.\.")  # as in git; the cache has a file of this name
_SHA1, _SHA256 = (re.compile(rf"[0-9a-f]{{{length}}}") for length in (40, 64))
_SETTINGS = threading.RLock()  # those of huggingface_hub are the whole process's


def _without_logins(record: logging.LogRecord) -> bool:
    record.msg, record.args = addresses.without_logins(record.getMessage()), ()
    return True


for _handler in logging.getLogger("huggingface_hub").handlers:  # its warnings quote HF_ENDPOINT, password and all
    _handler.addFilter(_without_logins)


@contextlib.contextmanager
def without_xet() -> Iterator[None]:
    """Files come and go by plain HTTP. Xet's client is a program of its own, with other limits than those here, and
    ``huggingface_hub`` uses it wherever it is installed. The user's setting is in force again afterwards."""
    with _SETTINGS:
        before = constants.HF_HUB_DISABLE_XET
        constants.HF_HUB_DISABLE_XET = True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before


def snapshot(
    repository: str, patterns: Sequence[str], *, revision: str = "", dataset: bool = False, small: bool = False
) -> Path:
    """The local folder of a commit, whose name it has, with the files that match ``patterns``, downloaded unless they
    are in the cache. ``small``: only files that are in no folder of the repository, ``LARGEST`` bytes together.

    Raises UserError, in one line, if that fails.
    """
    if _NO_REVISION.search(revision) or not revision.isprintable():
        raise UserError(f"{repository}: revision {revision!r:.80} is not the name of a branch or tag, or a commit")
    endpoint = addresses.without_logins(constants.ENDPOINT)
    _LOG.info("%s: fetching %s from %s", repository, ", ".join(patterns), endpoint)
    kind = "dataset" if dataset else "model"
    try:
        with without_xet():
            hooks = huggingface_hub.get_session().event_hooks
            limited = patterns if small else ()
            huggingface_hub.set_client_factory(
                lambda: _ImpatientClient(limited, event_hooks=hooks, follow_redirects=True)
            )
            path = huggingface_hub.snapshot_download(
                repository,
                repo_type=kind,
                revision=revision or None,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"] if small else None,
            )
            # Those of a listing that was in the cache were not looked at before they came.
            files = [file for file in sorted(Path(path).iterdir()) if file.is_file()]
            _check_small(((file.name, file.stat().st_size) for file in files), limited)
            _check_files(Path(path), repository, kind)
    except _FAILURES as error:
        detail = addresses.without_logins(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{repository} on {endpoint}: {detail}") from error
    return Path(path)


def _check_small(files: Iterable[tuple[str, int]], patterns: Sequence[str], total: int = 0) -> int:
    """``total`` and the sizes of those ``files``, names and sizes, that match and are in no folder. Raises Unusable if
    they are too large together."""
    for path, size in files:
        if "/" not in path and any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
            total += max(size, 0)
            if total > LARGEST:
                raise Unusable(
                    f"{path!r:.80} has {size:,} bytes; expected at most {LARGEST:,} in all files of "
                    f"{', '.join(patterns)} together: is this a model's repository?"
                )
    return total


def _check_files(folder: Path, repository: str, kind: str) -> None:
    """Checks all files, since a download that was interrupted checked none. What a link leads to has the checksum that
    the hub states as its name in the cache, git's or SHA-256; on a disk without links, the hub is asked. Raises
    Unusable, and removes a file that has another one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    stated = {path: os.readlink(path).rpartition("/")[2] for path in files if path.is_symlink()}
    # Hidden ones are the system's, as .DS_Store and .nfs0123: no model needs one.
    moved = [path for path in files if not path.is_symlink() and not path.name.startswith(".")]
    for path, expected in (stated | _listed(moved, folder, repository, kind)).items():
        if (actual := _checksum(path, expected)) != expected:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise Unusable(f"{path.name} has checksum {actual}; the hub states {expected}; download discarded")


def _listed(files: Sequence[Path], folder: Path, repository: str, kind: str) -> dict[Path, str]:
    """The checksums of ``files`` in the hub's listing; none, with a warning, if the user does not want it asked
    (``HF_HUB_OFFLINE=1``). Raises Unusable for a file without one."""
    if not files:
        return {}
    api = huggingface_hub.HfApi()
    try:
        tree = list(api.list_repo_tree(repository, recursive=True, revision=folder.name, repo_type=kind))
    except OfflineModeIsEnabled:
        _LOG.warning("%s: its files are not checked: a cache without links does not know their checksums", repository)
        return {}
    known = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in tree if isinstance(file, RepoFile)}
    found = {path: known.get(path.relative_to(folder).as_posix(), "") for path in files}
    for path, checksum in found.items():
        if not (_SHA1.fullmatch(checksum) or _SHA256.fullmatch(checksum)):
            raise Unusable(f"{path} has checksum {checksum!r:.80} in the hub's listing; expected git's or SHA-256")
    return found


def _checksum(path: Path, stated: str) -> str:
    """The checksum of a file, of the kind that ``stated`` is; ``stated`` if it is none."""
    with path.open("rb") as file:
        if _SHA256.fullmatch(stated):
            return hashlib.file_digest(file, "sha256").hexdigest()
        if _SHA1.fullmatch(stated):
            header = b"blob %d\0" % path.stat().st_size
            return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()
    return stated


class Unusable(Exception):
    """A server that is silent, or sends something else than it should. Not an error of ``httpx`` or the system, after
    which ``huggingface_hub`` would try again."""


# The hub's errors are OSErrors; the others are a name that is none, and what an answer of another form leads to, also a
# RuntimeError: one nested too deeply.
_FAILURES = (httpx.HTTPError, OSError, Unusable, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


class _ImpatientClient(httpx.Client):
    """``huggingface_hub``'s client, which stops waiting for a server that accepts requests but does not answer, or
    stops in the middle of an answer, or lists files without end. ``small``: patterns of the files that may have
    ``LARGEST`` bytes together."""

    def __init__(self, small: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._small, self._listed, self._listing, self._budget = small, 0, 0, _Budget()
        if check_address not in self.event_hooks["request"]:  # of the session before
            self.event_hooks["request"].append(check_address)
        self._unanswered: set[tuple[str, httpx.URL]] = set()
        self._attempts: dict[httpx.URL, tuple[int, int]] = {}  # at a file: where the last began, and how many did there

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Raises Unusable for a request that has timed out before, or a file of which little came since."""
        limit = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        given: dict[str, float | None] = request.extensions["timeout"]
        timeout = {name: min(seconds or limit, limit) for name, seconds in given.items()}
        request.extensions = {**request.extensions, "timeout": timeout}
        request.headers["Accept-Encoding"] = "identity"  # a body that is unpacked could grow without end
        if stream and request.method == "GET":
            self._count_attempt(request, limit)
        try:
            response = _within(2 * limit, functools.partial(super().send, request, stream=True, **options))
            for tag in ("ETag", "X-Linked-Etag"):  # the cache calls a file so
                if re.search(r"[/\\]", response.headers.get(tag, "").removeprefix("W/")):
                    raise Unusable(f"{request.url} answers with {tag} {response.headers[tag]!r:.80}, which is a path")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise Unusable(f"{request.url} answers packed, which was not asked for")
            unlimited = stream and "Content-Length" in response.headers and not self._small
            budget = self._budget if stream and self._small else None if unlimited else _Budget()
            response.stream = _Watched(response.stream, limit, budget)
            if not stream:
                response.read()
                _check_answer(response)
                self._check_listing(response)
            return response
        except httpx.TimeoutException as error:
            key = request.method, request.url
            if key in self._unanswered:
                raise Unusable(f"no answer to {request.method} {request.url} in {limit} s, twice") from error
            self._unanswered.add(key)
            raise

    def _check_listing(self, response: httpx.Response) -> None:
        """Raises Unusable, before any is downloaded, for a listing that is too long, and if the files that are to be
        small are not, by the listing."""
        if "/tree/" not in response.url.path or response.status_code != 200:
            return
        self._listing += max(len(response.content), LARGEST // _MOST_PAGES)
        if self._listing > LARGEST:
            raise Unusable(
                f"{response.url} lists files without end: more than {LARGEST:,} bytes or {_MOST_PAGES} pages"
            )
        sizes = ((file["path"], file["size"]) for file in response.json())
        self._listed = _check_small(sizes, self._small, self._listed)

    def _count_attempt(self, request: httpx.Request, limit: float) -> None:
        """Raises Unusable for a third attempt at a part of a file, after two that fell silent."""
        resumed = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(resumed[1]) if resumed else 0
        before, attempts = self._attempts.get(request.url, (start, 0))
        attempts = attempts + 1 if start < before + SLOWEST * limit else 2  # the one before fell silent here
        if attempts > 2:
            raise Unusable(f"silent in the middle of {request.url}, for {limit} s, twice")
        self._attempts[request.url] = start, attempts


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises. Raises ReadTimeout if it takes longer, and leaves it behind: httpx's own timeout
    begins anew with each byte of a header, which may have any number."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        if done.done():  # its own
            raise
        raise httpx.ReadTimeout(f"no whole answer in {seconds:.0f} s") from error


class _Budget:
    """``LARGEST`` bytes, which the bodies of one answer or of several may have together."""

    def __init__(self) -> None:
        self._left, self._lock = LARGEST, threading.Lock()

    def spend(self, size: int) -> None:
        """Raises Unusable once more were received."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise Unusable(f"an answer of more than {LARGEST:,} bytes, or several together")


class _Watched(httpx.SyncByteStream):
    """The body of an answer. Raises ReadTimeout if it is slower than ``SLOWEST``, Unusable if it is too large."""

    def __init__(self, stream: Any, window: float, budget: _Budget | None):
        self._stream, self._window, self._budget = stream, window, budget

    def __iter__(self) -> Iterator[bytes]:
        began, received = time.monotonic(), 0
        chunks = iter(self._stream)
        while (chunk := _within(2 * self._window, functools.partial(next, chunks, None))) is not None:
            yield chunk
            received += len(chunk)
            if self._budget:
                self._budget.spend(len(chunk))
            if (elapsed := time.monotonic() - began) >= self._window:
                if received < SLOWEST * elapsed:
                    raise httpx.ReadTimeout(f"{received:,} bytes in {elapsed:.0f} s")
                began, received = time.monotonic(), 0

    def close(self) -> None:
        self._stream.close()


def check_address(request: httpx.Request) -> None:
    """Raises Unusable for a redirect, by the hub or by whoever it redirects to, that is not to be followed."""
    try:
        addresses.check_redirect(constants.ENDPOINT, str(request.url))
    except addresses.Refused as error:
        raise Unusable(str(error)) from error


def _is_commit(value: object) -> bool:
    return isinstance(value, str) and bool(_SHA1.fullmatch(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# Part of an API's path -> whether its answer is an object or a list of them, and the fields that each has. The last is
# asked for before any other, and kept.
_ANSWERS: Mapping[str, tuple[type, Mapping[str, Callable[[object], bool]]]] = {
    "/revision/": (dict, {"id": _is_text, "sha": _is_commit}),
    "/tree/": (list, {"type": _is_text, "path": _is_text}),
    "/agent-harnesses": (dict, {}),
}


def _check_answer(response: httpx.Response) -> None:
    """Raises Unusable for an answer of the API that is broken or lacks a field: paths are made of them."""
    kind = next((kind for kind in _ANSWERS if kind in response.url.path), None)
    if kind is None or not response.url.path.startswith("/api/") or response.status_code != 200:
        return
    try:
        answer = response.json()
    except ValueError as error:
        raise Unusable(f"{response.url} answers broken JSON ({error})") from error
    form, fields = _ANSWERS[kind]
    if not isinstance(answer, form):
        raise Unusable(f"{response.url} answers a {type(answer).__name__}; expected a {form.__name__}")
    for row in answer if isinstance(answer, list) else [answer]:
        for field, is_right in fields.items():
            if not isinstance(row, dict) or not is_right(row.get(field)):
                raise Unusable(f"{response.url} answers {row!r:.80}; expected an object with a sound {field!r}")
