"""A server of the JSON API of Google Cloud Storage, as far as its Python library and ours use it: objects in memory,
with generations, preconditions, pages of listings, ranges, checksums and resumable uploads.

Written from https://cloud.google.com/storage/docs/json_api/v1; emulators on PyPI ignore ``ifGenerationMatch``.
"""

import base64
import email
import email.policy
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import google_crc32c
from werkzeug import Request, Response

PAGE = 3  # objects in a page of a listing: few, so that every listing of a run has several


class Stored(NamedTuple):
    content: bytes
    generation: int
    kind: str


class Refused(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class GcsApp:
    """The WSGI application. ``buckets``: bucket -> name -> object."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Stored]] = {bucket: {} for bucket in buckets}
        self._generations, self._uploads = itertools.count(1), dict[str, dict[str, Any]]()
        self._lock = threading.RLock()

    def __call__(self, environ, start_response):
        request = Request(environ)
        try:
            with self._lock:
                response = self._answer(request)
        except Refused as error:
            body = {"error": {"code": error.status, "message": str(error)}}
            response = Response(json.dumps(body), error.status, content_type="application/json")
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        path = request.environ["RAW_URI"].partition("?")[0]
        routes: list[tuple[str, str, Callable[..., Response]]] = [
            ("POST", r"/upload/storage/v1/b/([^/]+)/o", self._upload),
            ("PUT", r"/upload/storage/v1/b/([^/]+)/o", self._continue),
            ("GET", r"/storage/v1/b/([^/]+)/o", self._list),
            ("GET", r"/storage/v1/b/([^/]+)", self._about_bucket),
            ("GET", r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)", self._get),
            ("DELETE", r"/storage/v1/b/([^/]+)/o/([^/]+)", self._delete),
            ("POST", r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", self._rewrite),
        ]
        for method, pattern, action in routes:
            if request.method == method and (found := re.fullmatch(pattern, path)):
                return action(request, *(_unquoted(group) for group in found.groups()))
        raise Refused(501, f"{request.method} {path} is not served here")

    def _bucket(self, name: str) -> dict[str, Stored]:
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def _about_bucket(self, request: Request, name: str) -> Response:
        raise Refused(403, "storage.buckets.get access denied, as for most users")

    def _object(self, bucket: str, name: str) -> Stored:
        if name not in self._bucket(bucket):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return self.buckets[bucket][name]

    def _check(self, bucket: str, name: str, expected: str | None) -> None:
        found = self._bucket(bucket).get(name)
        if expected is not None and int(expected) != (found.generation if found else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def _store(self, bucket: str, name: str, content: bytes, kind: str, crc32c: str | None) -> Response:
        if crc32c is not None and crc32c != _crc32c(content):
            raise Refused(400, f"Provided CRC32C {crc32c} doesn't match calculated CRC32C {_crc32c(content)}.")
        self.buckets[bucket][name] = Stored(content, next(self._generations), kind)
        return _json(self._metadata(bucket, name))

    def _metadata(self, bucket: str, name: str) -> dict[str, str]:
        stored = self.buckets[bucket][name]
        return {
            "kind": "storage#object", "bucket": bucket, "name": name, "generation": str(stored.generation),
            "metageneration": "1", "size": str(len(stored.content)), "contentType": stored.kind,
            "crc32c": _crc32c(stored.content), "etag": str(stored.generation),
            "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
        }  # fmt: skip

    def _upload(self, request: Request, bucket: str) -> Response:
        match = request.args.get("ifGenerationMatch")
        if request.args["uploadType"] == "multipart":
            headers = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
            whole = email.message_from_bytes(headers + request.get_data(), policy=email.policy.HTTP)
            about, data = whole.iter_parts()
            fields = json.loads(about.get_payload(decode=True))
            # The mail parser may change line ends: the bytes are those before the last boundary.
            boundary = b"\r\n--" + whole.get_boundary().encode() + b"--"
            content = request.get_data().rpartition(boundary)[0].split(b"\r\n\r\n", 2)[2]
            self._check(bucket, fields["name"], match)
            return self._store(bucket, fields["name"], content, data.get_content_type(), fields.get("crc32c"))
        assert request.args["uploadType"] == "resumable"
        fields = {**request.args, **json.loads(request.get_data() or b"{}")}
        self._check(bucket, fields["name"], match)
        key = str(next(self._generations))
        self._uploads[key] = {**fields, "match": match, "content": b""}
        address = f"{request.host_url}upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
        return Response("", 200, {"Location": address})

    def _continue(self, request: Request, bucket: str) -> Response:
        upload = self._uploads[request.args["upload_id"]]
        span = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers["Content-Range"])
        assert span
        first, _, total = span.groups()
        if first is not None:
            assert int(first) == len(upload["content"])
            upload["content"] += request.get_data()
        if total != "*" and len(upload["content"]) == int(total):
            self._check(bucket, upload["name"], upload["match"])
            crc32c = dict(re.findall(r"(crc32c|md5)=([^,]+)", request.headers.get("X-Goog-Hash", ""))).get("crc32c")
            return self._store(bucket, upload["name"], upload["content"], "application/octet-stream", crc32c)
        done = len(upload["content"])
        return Response("", 308, {"Range": f"bytes=0-{done - 1}"} if done else {})

    def _list(self, request: Request, bucket: str) -> Response:
        prefix, delimiter = request.args.get("prefix", ""), request.args.get("delimiter")
        rows: dict[str, bool] = {}  # name or prefix -> whether it is an object
        for name in sorted(self._bucket(bucket)):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                rows[prefix + head + found if delimiter and found else name] = not (delimiter and found)
        after = request.args.get("pageToken", "")
        left = [row for row in sorted(rows) if row > after]
        page = left[:PAGE]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer["items"] = [self._metadata(bucket, row) for row in page if rows[row]]
        answer["prefixes"] = [row for row in page if not rows[row]]
        return _json(answer | ({"nextPageToken": page[-1]} if len(left) > PAGE else {}))

    def _get(self, request: Request, bucket: str, name: str) -> Response:
        stored = self._object(bucket, name)
        self._check(bucket, name, request.args.get("ifGenerationMatch"))
        if request.args.get("alt") != "media":
            return _json(self._metadata(bucket, name))
        fields = self._metadata(bucket, name)
        headers = {
            "X-Goog-Generation": fields["generation"],
            "X-Goog-Hash": f"crc32c={fields['crc32c']},md5={fields['md5Hash']}",
            "Content-Type": stored.kind,
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not span:
            return Response(stored.content, 200, headers)
        first, last = int(span[1]), int(span[2] or len(stored.content) - 1)
        if first >= len(stored.content):
            raise Refused(416, "The requested range cannot be satisfied.")
        part = stored.content[first : last + 1]
        return Response(
            part, 206, headers | {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(stored.content)}"}
        )

    def _delete(self, request: Request, bucket: str, name: str) -> Response:
        self._object(bucket, name)
        self._check(bucket, name, request.args.get("ifGenerationMatch"))
        del self.buckets[bucket][name]
        return Response("", 204)

    def _rewrite(self, request: Request, bucket: str, name: str, to_bucket: str, to_name: str) -> Response:
        stored = self._object(bucket, name)
        self._bucket(to_bucket)[to_name] = stored._replace(generation=next(self._generations))
        size = str(len(stored.content))
        return _json({"done": True, "objectSize": size, "totalBytesRewritten": size,
                      "resource": self._metadata(to_bucket, to_name)})  # fmt: skip


def _json(fields: dict[str, Any]) -> Response:
    return Response(json.dumps(fields), 200, content_type="application/json")


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
