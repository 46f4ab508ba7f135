"""Objects in Google Cloud Storage (``gs://``) and S3 (``s3://``), through obstore.

A bucket has one flat table of objects. Each is written whole and has a version, so a write can be made conditional on
the version that it replaces: if several processes try, exactly one succeeds. There is no rename.

Requests that fail for a transient reason (429, 5xx, a connection that breaks or stalls) are retried, with growing
pauses, until ``PATIENCE`` seconds (``NATUREL_STORE_PATIENCE_S``) after the first failure; then they raise
``Unavailable``. obstore itself retries only a few times, so that a lost part is not a lost upload: it retries neither a
listing that breaks off nor a conditional write whose answer does not arrive, and signals are held up while it runs.
"""

import contextlib
import datetime
import functools
import logging
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tfds_naturel.common.errors import Unavailable, UserError

if TYPE_CHECKING:
    from obstore.store import GCSStore, S3Store

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int], object]  # bytes received since the last call

PATIENCE = float(os.environ.get("NATUREL_STORE_PATIENCE_S", "120"))
ABSENT = ""  # the version of an object that does not exist

FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 16.0
CONNECT_S, SILENCE_S = 10, 60  # time-outs of a request: until connected, and until the next bytes arrive
# A larger object is uploaded in parts of this many bytes, or in as many parts as a store accepts. The answer to a part
# has to arrive within SILENCE_S, which includes the time to send it.
PART = 8 << 20
_MOST_PARTS, _PARTS_AT_ONCE = 10_000, 2
_BLOCK = 1 << 20  # bytes that a download writes at a time


class Changed(OSError):
    """An object does not have the version that a write was to replace."""


class Info(NamedTuple):
    """An object in a listing; ``etag`` changes with the content."""

    size: int
    etag: str

    @property
    def md5(self) -> str:
        """MD5 of the content, in hexadecimal; "" if the ETag cannot be one, as after a multipart upload. If S3
        encrypts the object with a customer's key, the ETag looks like an MD5 but is not.

        https://cloud.google.com/storage/docs/hashes-etags
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html"""
        found = re.fullmatch('"([0-9a-f]{32})"', self.etag)
        return found[1] if found else ""


# ---- Clients --------------------------------------------------------------------------------------------------------


def _gcs(bucket: str, **options: Any) -> "GCSStore":
    """A client with Google's application default credentials; an emulator (``STORAGE_EMULATOR_HOST``) needs none."""
    import google.auth
    from obstore.auth.google import GoogleCredentialProvider
    from obstore.store import GCSStore

    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        return GCSStore(bucket, base_url=emulator, bearer_token="", **options)
    try:
        credentials, _ = google.auth.default(["https://www.googleapis.com/auth/devstorage.read_write"])
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise UserError(
            f"gs://{bucket}: no credentials for Google Cloud; run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"
        ) from error
    return GCSStore(bucket, credential_provider=GoogleCredentialProvider(credentials), **options)


def _s3(bucket: str, **options: Any) -> "S3Store":
    """A client with the credentials and the region that boto3 finds."""
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    try:
        # It renews credentials with less than 10 minutes left.
        provider = Boto3CredentialProvider(ttl=datetime.timedelta(minutes=10))
    except (ValueError, BotoCoreError) as error:
        raise UserError(
            f"s3://{bucket}: no credentials for S3 ({error}); run `aws configure`, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from error
    return S3Store(bucket, credential_provider=provider, disable_bulk_delete=True, **options)


# scheme -> (client, extra of the package, field of an object's version in conditional writes)
_STORES: dict[str, tuple[Callable[..., "GCSStore | S3Store"], str, str]] = {
    "gs": (_gcs, "gcs", "version"),
    "s3": (_s3, "s3", "e_tag"),
}
SCHEMES = tuple(f"{scheme}://" for scheme in _STORES)


def in_store(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is in an object store."""
    return os.fspath(path).startswith(SCHEMES)


@functools.cache
def client(scheme: str, bucket: str) -> "GCSStore | S3Store":
    """The client of a bucket. Raises UserError if there are no credentials, or the library is not installed."""
    kind, extra, _ = _STORES[scheme]
    seconds = datetime.timedelta(seconds=1)
    try:
        return kind(
            bucket,
            client_options={
                "connect_timeout": CONNECT_S * seconds,
                "read_timeout": SILENCE_S * seconds,
                "timeout": datetime.timedelta(days=1),  # for a whole download; the default is 30 s
                "allow_http": True,  # for endpoints that the user names, and for credential servers
            },
            retry_config={
                "max_retries": 3,
                "retry_timeout": SILENCE_S / 2 * seconds,  # no second timeout while signals wait
                "backoff": {"init_backoff": FIRST_WAIT_S * seconds},
            },
        )
    except ImportError as error:
        raise UserError(
            f"{scheme}://{bucket} needs a library that is not installed ({error.name}): pip install "
            f"'naturel_jax[{extra}]'"
        ) from error


class Location:
    """An object, or a folder of objects, by its address. Its methods retry transient failures, and raise Unavailable,
    FileNotFoundError, PermissionError, Changed or another OSError, with the address."""

    def __init__(self, path: str | os.PathLike[str]):
        self.url = os.fspath(path).rstrip("/")
        scheme, _, rest = self.url.partition("://")
        bucket, _, self.name = rest.partition("/")
        self.prefix = f"{self.name}/" if self.name else ""  # of the names of the objects in this folder
        if not bucket:
            raise UserError(f"{self.url}: names no bucket; expected {scheme}://BUCKET/FOLDER")
        self._store, self._version = client(scheme, bucket), _STORES[scheme][2]

    def get(self) -> tuple[bytes, str]:
        """(content, version). Raises OSError if the store gives no version."""

        def request() -> tuple[bytes, str | None]:
            answer = self._store.get(self.name)
            meta: Any = answer.meta
            return bytes(answer.bytes()), meta[self._version]

        content, version = self._retry(request)
        if version is None:
            raise OSError(f"{self.url}: the store gives no {self._version}, so nobody could tell who writes to it")
        return content, version

    def put(self, content: bytes, replacing: str | None = None) -> None:
        """Writes the object. Raises Changed if it does not have the version ``replacing``."""
        mode: Any = None if replacing is None else {self._version: replacing} if replacing else "create"
        try:
            self._retry(lambda: self._store.put(self.name, content, mode=mode, chunk_size=PART))
        except Changed:
            # A write that succeeded, but whose answer was lost, was retried.
            with contextlib.suppress(FileNotFoundError):
                if self.get()[0] == content:
                    return
            raise

    def download(self, path: Path, info: Info, progress: Progress = lambda n: None) -> None:
        """Writes the object to ``path``, continuing what is there. Raises Changed if it has another ETag by now, and
        OSError if fewer or more bytes have come than it has."""
        with path.open("ab") as file:

            def continued() -> None:
                if file.tell() < info.size:
                    options: Any = {"if_match": info.etag, "range": {"offset": file.tell()}}
                    for block in self._store.get(self.name, options=options).stream(_BLOCK):
                        if file.tell() + len(block) > info.size:
                            raise OSError(f"{self.url}: the store sends more than its {info.size:,} bytes")
                        file.write(block)
                        progress(len(block))

            self._retry(continued, file.tell)
            if (found := file.tell()) < info.size:
                raise OSError(f"{self.url}: {found:,} bytes came of {info.size:,}; run the same command again")

    def upload(self, path: Path) -> None:
        """Writes the object with the content of ``path``."""
        part = max(PART, -(-path.stat().st_size // _MOST_PARTS))
        self._retry(lambda: self._store.put(self.name, path, chunk_size=part, max_concurrency=_PARTS_AT_ONCE))

    def copy(self, target: "Location") -> None:
        """Copies the object to another in the same bucket."""
        self._retry(lambda: self._store.copy(self.name, target.name))

    def delete(self) -> None:
        """Deletes the object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._retry(lambda: self._store.delete(self.name))

    def info(self) -> Info:
        """The size and ETag of the object. Raises FileNotFoundError if there is none."""
        try:
            found = self._retry(lambda: self._store.head(self.name))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.url}: no such object in the store") from error
        return Info(found["size"], found["e_tag"] or "")

    def objects(self) -> dict[str, Info]:
        """All objects in this folder and those below it, by their names relative to it."""
        rows = self._retry(lambda: self._store.list(self.prefix).collect())
        found = {
            row["path"].removeprefix(self.prefix): Info(row["size"], row["e_tag"] or "")
            for row in rows
            if row["path"] != self.name
        }
        # Consoles create an empty object for a folder, which obstore lists without the slash at its end.
        folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
        return {name: info for name, info in found.items() if info.size or name not in folders}

    def names(self) -> list[str]:
        """The names in this folder, sorted."""
        found = self._retry(lambda: self._store.list_with_delimiter(self.prefix))
        paths = [*found["common_prefixes"], *(row["path"] for row in found["objects"])]
        return sorted(path.removeprefix(self.prefix) for path in paths if path != self.name)

    def _retry(self, request: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """``request()``, retried while it fails for a transient reason; the clock restarts on ``progress()``."""
        from obstore.exceptions import BaseError

        end, wait, done = 0.0, FIRST_WAIT_S, -1
        while True:
            try:
                return request()
            except (BaseError, FileNotFoundError, ValueError) as error:
                problem = _translated(error)
                if not isinstance(problem, Unavailable):
                    raise type(problem)(f"{self.url}: {problem}") from error
                if progress() > done:
                    end, wait, done = time.monotonic() + PATIENCE, FIRST_WAIT_S, progress()
                if time.monotonic() + wait > end:
                    raise Unavailable(
                        f"{self.url}: the store failed for {PATIENCE:g} s ({problem}); run the same command again to "
                        "continue"
                    ) from error
                _LOG.debug("%s: trying again after %s", self.url, problem)
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, _LONGEST_WAIT_S)


# ---- Errors ---------------------------------------------------------------------------------------------------------

_BY_STATUS: dict[int, type[Exception]] = {
    **{401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 409: Changed, 412: Changed},
    **dict.fromkeys((408, 429, 500, 502, 503, 504), Unavailable),
}
# Failures without an answer, or whose status is not enough: words in obstore's message -> (error, fix).
_BY_WORDS: dict[str, tuple[type[Exception], str]] = {
    "<Code>NoSuchUpload": (Unavailable, ""),  # the last request of a multipart upload, retried as its answer was lost
    "HTTP error: ": (Unavailable, ""),
    "TransportError": (Unavailable, ""),  # when fetching Google's credentials
    " credential provider: ": (PermissionError, ""),
    "redirect without LOCATION": (UserError, "; set AWS_DEFAULT_REGION to the region of the bucket"),
    " path segment": (UserError, "; such names are not supported: rename the object"),
}


def _translated(error: Exception) -> Exception:
    """The error to raise for one of obstore's, whose classes do not say which failures are transient."""
    text = " ".join(str(error).partition("\n\nDebug source:")[0].split())
    for words, (kind, fix) in _BY_WORDS.items():
        if words in text:
            return kind(text[-300:] + fix)
    if not (status := re.search(r"status code: (\d+) (.*)", text)):
        return error if isinstance(error, FileNotFoundError) else OSError(text[:300])
    said = re.search("<Message>(.*?)</Message>", text)
    message = said[1] if said else status[2]
    return _BY_STATUS.get(int(status[1]), OSError)(f"{status[1]}: {message[:300]}")
