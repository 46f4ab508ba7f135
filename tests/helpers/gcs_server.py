"""A server of the XML API of Google Cloud Storage, as far as obstore uses it: objects in memory, with generations,
preconditions, pages of listings, ranges and uploads in parts.

Written from https://cloud.google.com/storage/docs/xml-api/reference-methods; emulators on PyPI ignore
``x-goog-if-generation-match``.
"""

import hashlib
import itertools
import re
import threading
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from werkzeug import Request, Response

PAGE = 3  # objects in a page of a listing: few, so that every listing of a run has several
MODIFIED = ("2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT")


class Stored(NamedTuple):
    """``etag``: MD5 of the content; of an object that was uploaded in parts, something else."""

    content: bytes
    generation: int
    etag: str

    @property
    def headers(self) -> dict[str, str]:
        return {"ETag": self.etag, "X-Goog-Generation": str(self.generation), "Last-Modified": MODIFIED[1]}


class Refused(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class GcsApp:
    """The WSGI application. ``buckets``: bucket -> name -> object."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Stored]] = {bucket: {} for bucket in buckets}
        self._generations, self._uploads = itertools.count(1), dict[str, dict[int, bytes]]()
        self._lock = threading.RLock()

    def __call__(self, environ, start_response):
        request = Request(environ)
        try:
            with self._lock:
                response = self._answer(request)
        except Refused as error:
            fields = f"<Code>{error.code}</Code><Message>{escape(str(error))}</Message>"
            response = Response(f"<Error>{fields}</Error>", error.status, content_type="application/xml")
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        _, bucket, *name = map(unquote, request.environ["RAW_URI"].partition("?")[0].split("/"))
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        objects = self.buckets[bucket]
        if not name:
            return self._list(request, objects)
        if "uploads" in request.args:
            key = str(next(self._generations))
            self._uploads[key] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{key}</UploadId></InitiateMultipartUploadResult>")
        if "uploadId" in request.args:
            return self._part(request, objects, name[0], request.args["uploadId"])
        return {"GET": self._get, "HEAD": self._get, "PUT": self._put, "DELETE": self._delete}[request.method](
            request, objects, name[0]
        )

    def _found(self, objects: dict[str, Stored], name: str) -> Stored:
        if name not in objects:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return objects[name]

    def _store(self, objects: dict[str, Stored], name: str, content: bytes, etag: str) -> Stored:
        objects[name] = Stored(content, next(self._generations), f'"{etag}"')
        return objects[name]

    def _put(self, request: Request, objects: dict[str, Stored], name: str) -> Response:
        match, found = request.headers.get("X-Goog-If-Generation-Match"), objects.get(name)
        if match is not None and int(match) != (found.generation if found else 0):
            raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        content = request.get_data()
        if "X-Goog-Copy-Source" in request.headers:
            bucket, _, source = request.headers["X-Goog-Copy-Source"].partition("/")
            content = self._found(self.buckets[bucket], unquote(source)).content
        return Response("", 200, self._store(objects, name, content, hashlib.md5(content).hexdigest()).headers)

    def _part(self, request: Request, objects: dict[str, Stored], name: str, key: str) -> Response:
        if key not in self._uploads:
            raise Refused(404, "NoSuchUpload", "The requested upload was not found.")
        if request.method == "PUT":
            content = request.get_data()
            self._uploads[key][int(request.args["partNumber"])] = content
            return Response("", 200, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
        parts = self._uploads.pop(key)
        if request.method == "DELETE":
            return Response("", 204)
        numbers = [int(row.text or "") for row in ElementTree.fromstring(request.get_data()).iter("PartNumber")]
        content = b"".join(parts[number] for number in numbers)
        stored = self._store(objects, name, content, f"{hashlib.md5(content).hexdigest()}-{len(numbers)}")
        fields = f"<ETag>{escape(stored.etag)}</ETag>"
        return _xml(f"<CompleteMultipartUploadResult>{fields}</CompleteMultipartUploadResult>")

    def _list(self, request: Request, objects: dict[str, Stored]) -> Response:
        prefix, delimiter = request.args.get("prefix", ""), request.args.get("delimiter")
        rows: dict[str, bool] = {}  # name or prefix -> whether it is an object
        for name in sorted(objects):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                rows[prefix + head + found if delimiter and found else name] = not (delimiter and found)
        left = [row for row in sorted(rows) if row > request.args.get("continuation-token", "")]
        answer = ""
        for row in left[:PAGE]:
            if rows[row]:
                size, etag = len(objects[row].content), escape(objects[row].etag)
                fields = f"<Size>{size}</Size><ETag>{etag}</ETag><LastModified>{MODIFIED[0]}</LastModified>"
                answer += f"<Contents><Key>{escape(row)}</Key>{fields}</Contents>"
            else:
                answer += f"<CommonPrefixes><Prefix>{escape(row)}</Prefix></CommonPrefixes>"
        if len(left) > PAGE:
            answer += f"<NextContinuationToken>{escape(left[PAGE - 1])}</NextContinuationToken>"
        return _xml(f"<ListBucketResult>{answer}</ListBucketResult>")

    def _get(self, request: Request, objects: dict[str, Stored], name: str) -> Response:
        stored = self._found(objects, name)
        content, size = stored.content, len(stored.content)
        if request.headers.get("If-Match", stored.etag) != stored.etag:
            raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not span:
            return Response(content, 200, stored.headers)
        first, last = int(span[1]), min(int(span[2] or size - 1), size - 1)
        if first >= size:
            raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        return Response(
            content[first : last + 1], 206, stored.headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
        )

    def _delete(self, request: Request, objects: dict[str, Stored], name: str) -> Response:
        self._found(objects, name)
        del objects[name]
        return Response("", 204)


def _xml(text: str) -> Response:
    return Response(text, 200, content_type="application/xml")
