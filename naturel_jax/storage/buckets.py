"""Single requests to a bucket of Google Cloud Storage or S3, through the stores' own libraries.

``object_stores`` repeats those that fail, and is what the rest of the program uses.
"""

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, Protocol

from tfds_naturel.common.errors import Unavailable, UserError

CONNECT_S, SILENCE_S = 10, 60  # time-outs of a request: until connected, and between bytes

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP status
_CHUNK = 1 << 20  # bytes


class Changed(OSError):
    """An object does not have the version that a write was to replace."""


class Info(NamedTuple):
    """``checksum``: ``crc32c=<base64>``, ``md5=<hex>``, ``md5=<hex>-<parts>``, or "" if the store has none."""

    size: int
    version: str
    checksum: str


Progress = Callable[[int], object]  # bytes received since the last call


class Bucket(Protocol):
    """Single requests, not repeated but for parts of an upload; they raise the library's errors, which ``problem``
    explains."""

    def get(self, name: str) -> tuple[bytes, str]:
        """(content, version)."""
        ...

    def put(self, name: str, content: bytes, replacing: str | None) -> str:
        """Writes an object; returns its version. ``replacing``: the version that it must have; None: any."""
        ...

    def download(self, name: str, info: Info, file: BinaryIO, progress: Progress) -> None:
        """Appends to ``file`` what it lacks of the object, if that still has the version of ``info``."""
        ...

    def upload(self, path: Path, name: str, patience_s: float) -> None:
        """Writes an object with the content of a file, a large one in parts."""
        ...

    def copy(self, name: str, target: str) -> None:
        """Copies an object within the bucket."""
        ...

    def delete(self, name: str) -> None:
        """Deletes an object, if there is one."""
        ...

    def objects(self, prefix: str) -> dict[str, Info]:
        """All objects whose names start with ``prefix``."""
        ...

    def names(self, prefix: str) -> list[str]:
        """What follows ``prefix``, up to the next slash, in the names of objects."""
        ...

    def checksum_of(self, path: Path, name: str, expected: str) -> str:
        """Of a file, comparable to the ``expected`` one of the object ``name``."""
        ...

    def problem(self, error: Exception) -> Exception | None:
        """The error to raise; None for a programming error."""
        ...


# ---- Google Cloud Storage -------------------------------------------------------------------------------------------


class Gcs:
    """A version is the generation of an object."""

    def __init__(self, bucket: str):
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth
        from google.cloud import storage
        from google.cloud.storage import exceptions as media
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        self._api, self._auth = api, auth
        media_errors = (media.InvalidResponse, media.DataCorruption)
        self._transient = (ConnectionError, RequestException, HTTPError, auth.TransportError, *media_errors)
        try:
            self._client = storage.Client(project=None)  # needed only to list and create buckets
        except auth.DefaultCredentialsError as error:
            raise UserError(
                f"gs://{bucket}: no credentials for Google Cloud; run `gcloud auth application-default login`, or set "
                "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"
            ) from error
        self._bucket = self._client.bucket(bucket)
        self._once: dict[str, Any] = {"retry": None, "timeout": (CONNECT_S, SILENCE_S)}

    def get(self, name: str) -> tuple[bytes, str]:
        blob = self._bucket.blob(name)
        content = blob.download_as_bytes(raw_download=True, **self._once)
        return content, str(blob.generation)

    def put(self, name: str, content: bytes, replacing: str | None) -> str:
        blob = self._bucket.blob(name)
        match = None if replacing is None else int(replacing or 0)
        kind = "application/octet-stream"
        blob.upload_from_string(content, kind, if_generation_match=match, checksum="crc32c", **self._once)
        return str(blob.generation)

    def download(self, name: str, info: Info, file: BinaryIO, progress: Progress) -> None:
        def write(block: bytes) -> int:
            progress(len(block))
            return file.write(block)

        stream, start, generation = SimpleNamespace(write=write), file.tell(), int(info.version)
        self._bucket.blob(name).download_to_file(
            stream, start=start, raw_download=True, if_generation_match=generation, checksum=None, **self._once
        )

    def upload(self, path: Path, name: str, patience_s: float) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        patient = self._once | {"retry": DEFAULT_RETRY.with_timeout(patience_s)}
        self._bucket.blob(name).upload_from_filename(str(path), checksum="crc32c", **patient)

    def copy(self, name: str, target: str) -> None:
        source, copy, token = self._bucket.blob(name), self._bucket.blob(target), None
        while True:  # a large object takes several requests
            token, _, _ = copy.rewrite(source, token=token, **self._once)
            if token is None:
                return

    def delete(self, name: str) -> None:
        with contextlib.suppress(self._api.NotFound):
            self._bucket.blob(name).delete(**self._once)

    def objects(self, prefix: str) -> dict[str, Info]:
        blobs = self._client.list_blobs(self._bucket, prefix=prefix, **self._once)
        return {blob.name: Info(blob.size, str(blob.generation), f"crc32c={blob.crc32c}") for blob in blobs}

    def names(self, prefix: str) -> list[str]:
        found = self._client.list_blobs(self._bucket, prefix=prefix, delimiter="/", **self._once)
        files = [blob.name for blob in found]
        return [name.removeprefix(prefix) for name in (*files, *found.prefixes)]

    def checksum_of(self, path: Path, name: str, expected: str) -> str:
        import google_crc32c

        digest = google_crc32c.Checksum()
        for block in _blocks(path):
            digest.update(block)
        return f"crc32c={base64.b64encode(digest.digest()).decode()}"

    def problem(self, error: Exception) -> Exception | None:
        if isinstance(error, self._api.GoogleAPICallError):
            return _by_status(int(error.code or 0), error.message)
        if isinstance(error, self._transient):
            return Unavailable(_line(error))
        return PermissionError(_line(error)) if isinstance(error, self._auth.GoogleAuthError) else None


# ---- S3 -------------------------------------------------------------------------------------------------------------


class S3:
    """A version is the ETag of an object."""

    def __init__(self, bucket: str):
        import boto3
        import botocore.config
        import botocore.exceptions as errors
        from urllib3.exceptions import HTTPError

        self._errors = errors
        self._transient = (
            errors.HTTPClientError,
            errors.FlexibleChecksumError,
            errors.IncompleteReadError,
            errors.ResponseStreamingError,
            HTTPError,
        )

        def client(attempts: int) -> Any:
            config = botocore.config.Config(
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=CONNECT_S,
                read_timeout=SILENCE_S,
                max_pool_connections=64,
            )
            return boto3.client("s3", config=config)

        self._client, self._uploader, self._bucket = client(1), client(3), bucket

    def get(self, name: str) -> tuple[bytes, str]:
        answer = self._client.get_object(Bucket=self._bucket, Key=name)
        return answer["Body"].read(), answer["ETag"]

    def put(self, name: str, content: bytes, replacing: str | None) -> str:
        match = {} if replacing is None else {"IfMatch": replacing} if replacing else {"IfNoneMatch": "*"}
        return self._client.put_object(Bucket=self._bucket, Key=name, Body=content, **match)["ETag"]

    def download(self, name: str, info: Info, file: BinaryIO, progress: Progress) -> None:
        span = f"bytes={file.tell()}-"
        answer = self._client.get_object(Bucket=self._bucket, Key=name, Range=span, IfMatch=info.version)
        for block in answer["Body"].iter_chunks(_CHUNK):
            file.write(block)
            progress(len(block))

    def upload(self, path: Path, name: str, patience_s: float) -> None:
        with path.open("rb") as file:
            self._uploader.upload_fileobj(file, self._bucket, name)

    def copy(self, name: str, target: str) -> None:
        self._client.copy({"Bucket": self._bucket, "Key": name}, self._bucket, target)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name)

    def objects(self, prefix: str) -> dict[str, Info]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        rows = [row for page in pages for row in page.get("Contents", [])]
        return {row["Key"]: Info(row["Size"], row["ETag"], f"md5={row['ETag'].strip(chr(34))}") for row in rows}

    def names(self, prefix: str) -> list[str]:
        pages = list(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/")
        )
        files = [row["Key"] for page in pages for row in page.get("Contents", [])]
        folders = [row["Prefix"] for page in pages for row in page.get("CommonPrefixes", [])]
        return [name.removeprefix(prefix) for name in (*files, *folders)]

    def checksum_of(self, path: Path, name: str, expected: str) -> str:
        """The ETag of an object that was uploaded in parts is the MD5 of their MD5s; that of an object encrypted with a
        key of its own is no checksum, and is believed."""
        _, hyphen, parts = expected.partition("-")
        head = self._client.head_object(Bucket=self._bucket, Key=name, **({"PartNumber": 1} if hyphen else {}))
        if head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head:
            return expected
        if not hyphen:
            return f"md5={_md5(path).hexdigest()}"
        length = head["ContentLength"]
        digests = [_md5(path, n * length, length).digest() for n in range(int(parts))]
        return f"md5={hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{parts}"

    def problem(self, error: Exception) -> Exception | None:
        if isinstance(error, self._errors.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return _by_status(int(status), error.response.get("Error", {}).get("Message", ""))
        if isinstance(error, self._errors.NoCredentialsError | self._errors.PartialCredentialsError):
            return UserError(f"no credentials for S3 ({_line(error)}); run `aws configure`, or set AWS_ACCESS_KEY_ID")
        if isinstance(error, self._transient):
            return Unavailable(_line(error))
        return OSError(_line(error)) if isinstance(error, self._errors.BotoCoreError) else None


# ---- Both -----------------------------------------------------------------------------------------------------------


def _by_status(status: int, message: str) -> Exception:
    said = re.search(r'"message": "([^"]*)"', message)  # Google's library quotes the whole answer
    line = " ".join((said[1] if said else message).split())[:300]
    kinds: dict[int, type[Exception]] = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}
    kinds |= {409: Changed, 412: Changed} | dict.fromkeys(_TRANSIENT, Unavailable)
    return kinds.get(status, OSError)(f"{status}: {line}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _blocks(path: Path, start: int = 0, length: int = 1 << 62) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(_CHUNK, length)):
            length -= len(block)
            yield block


def _md5(path: Path, start: int = 0, length: int = 1 << 62) -> Any:
    digest = hashlib.md5(usedforsecurity=False)
    for block in _blocks(path, start, length):
        digest.update(block)
    return digest
