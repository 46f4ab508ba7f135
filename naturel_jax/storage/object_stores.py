"""Objects in Google Cloud Storage (``gs://``) and S3 (``s3://``).

A bucket has one flat table of objects. Each is written whole, and has a version, so that a write can be made to depend
on the version that it replaces: of several processes that try, exactly one succeeds. There is no rename.

Requests that fail for a reason that may pass (429, 5xx, a connection that breaks or is silent) are repeated, waiting
longer each time, until ``PATIENCE`` seconds (``NATUREL_STORE_PATIENCE_S``) after the first failure; then they raise
``Unavailable``.
"""

import contextlib
import functools
import logging
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from naturel_jax.storage.buckets import S3, Bucket, Changed, Gcs, Info, Progress
from tfds_naturel.common.errors import Unavailable, UserError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = float(os.environ.get("NATUREL_STORE_PATIENCE_S", "120"))
ABSENT = ""  # the version of an object that does not exist

FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 16.0

_BUCKETS: dict[str, tuple[Callable[[str], Bucket], str]] = {"gs": (Gcs, "gcs"), "s3": (S3, "s3")}
SCHEMES = tuple(f"{scheme}://" for scheme in _BUCKETS)


def in_store(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is in an object store."""
    return os.fspath(path).startswith(SCHEMES)


@functools.cache
def _open(scheme: str, bucket: str) -> Bucket:
    kind, extra = _BUCKETS[scheme]
    try:
        return kind(bucket)
    except ImportError as error:
        raise UserError(
            f"{scheme}://{bucket} needs a library that is not installed ({error.name}): pip install "
            f"'naturel_jax[{extra}]'"
        ) from error


def forget_clients() -> None:
    """Makes new clients at the next request, from the environment as it is then."""
    _open.cache_clear()


class Location:
    """An object, or a folder of objects, by its address. Its methods repeat what may pass, and raise Unavailable,
    FileNotFoundError, PermissionError, Changed or another OSError, with the address."""

    def __init__(self, path: str | os.PathLike[str]):
        self.url = os.fspath(path).rstrip("/")
        scheme, _, rest = self.url.partition("://")
        bucket, _, self.name = rest.partition("/")
        if not bucket:
            raise UserError(f"{self.url}: names no bucket; expected {scheme}://BUCKET/FOLDER")
        self._bucket = _open(scheme, bucket)

    @property
    def prefix(self) -> str:
        """Of the names of the objects in this folder."""
        return f"{self.name}/" if self.name else ""

    def get(self) -> tuple[bytes, str]:
        """(content, version)."""
        return self._patiently(lambda: self._bucket.get(self.name))

    def put(self, content: bytes, replacing: str | None = None) -> str:
        """Writes the object; returns its version. Raises Changed if it does not have the version ``replacing``."""
        try:
            return self._patiently(lambda: self._bucket.put(self.name, content, replacing))
        except Changed:
            # A write that was carried out, but whose answer was lost, was repeated.
            with contextlib.suppress(FileNotFoundError):
                found, version = self.get()
                if found == content:
                    return version
            raise

    def download(self, path: Path, info: Info, progress: Progress = lambda n: None) -> None:
        """Writes the object to ``path``, continuing what is there. Raises Changed if it has another version by now."""
        with path.open("ab") as file:

            def continued() -> None:
                if file.tell() < info.size:
                    self._bucket.download(self.name, info, file, progress)

            self._patiently(continued, file.tell)

    def upload(self, path: Path) -> None:
        """Writes the object with the content of ``path``."""
        self._patiently(lambda: self._bucket.upload(path, self.name, PATIENCE))

    def copy(self, target: "Location") -> None:
        """Copies the object to another in the same bucket."""
        self._patiently(lambda: self._bucket.copy(self.name, target.name))

    def delete(self) -> None:
        """Deletes the object, if there is one."""
        self._patiently(lambda: self._bucket.delete(self.name))

    def info(self) -> Info:
        """Of the object. Raises FileNotFoundError if there is none."""
        found = self._patiently(lambda: self._bucket.objects(self.name))
        if self.name not in found:
            raise FileNotFoundError(f"{self.url}: no such object in the store")
        return found[self.name]

    def objects(self) -> dict[str, Info]:
        """All objects in this folder and those below it, by their names relative to it."""
        found = self._patiently(lambda: self._bucket.objects(self.prefix))
        return {name.removeprefix(self.prefix): info for name, info in found.items() if not name.endswith("/")}

    def names(self) -> list[str]:
        """The names in this folder, sorted."""
        found = self._patiently(lambda: self._bucket.names(self.prefix))
        return sorted({name.rstrip("/") for name in found} - {""})

    def has_content(self, path: Path, info: Info) -> bool:
        """Whether the file ``path`` has the size and the checksum of the object."""
        if path.stat().st_size != info.size:
            return False
        expected = info.checksum
        found = self._patiently(lambda: self._bucket.checksum_of(path, self.name, expected))
        return found == expected

    def _patiently(self, request: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """``request()``, repeated while it fails for a reason that may pass and makes no ``progress()``."""
        end, wait, tries, done = math.inf, FIRST_WAIT_S, 0, progress()
        while True:
            tries += 1
            try:
                return request()
            except Exception as error:
                problem = self._bucket.problem(error)
                if problem is None:
                    raise
                if not isinstance(problem, Unavailable):
                    raise type(problem)(f"{self.url}: {problem}") from error
                if tries == 1 or progress() > done:
                    end, wait, done = time.monotonic() + PATIENCE, FIRST_WAIT_S, progress()
                if time.monotonic() + wait > end:
                    raise Unavailable(
                        f"{self.url}: the store failed {tries} times within {PATIENCE:g} s ({problem}); run the same "
                        "command again to continue"
                    ) from error
                _LOG.debug("%s: trying again after %s", self.url, problem)
            time.sleep(wait * random.uniform(0.5, 1))
            wait = min(2 * wait, _LONGEST_WAIT_S)
