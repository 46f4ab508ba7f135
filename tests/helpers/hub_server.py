"""A Hugging Face hub on loopback: what ``huggingface_hub`` needs to download repositories, to create those of models
and to commit to them, with files in git or in LFS."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.helpers import loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".npz")  # kept in LFS


@dataclasses.dataclass
class Hub:
    """``repositories``: name -> path -> content. ``tokens``: token -> owners that it may write to. ``requested``: the
    files downloaded; ``private``: the repositories created as private ones. A POST to a path that has ``redirected`` in
    it is sent to the address there, one with ``slow`` is answered after a second."""

    repositories: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    tokens: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    requested: list[str] = dataclasses.field(default_factory=list)
    private: list[str] = dataclasses.field(default_factory=list)
    lfs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    address: str = ""
    redirected: tuple[str, str] = ("", "")
    slow: str = ""

    def add(self, name: str, folder: Path) -> None:
        files = (path for path in folder.rglob("*") if path.is_file())
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """For a process that uses this hub, with an empty cache and no login."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache)}
        return {**kept, **settings, **more}


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    with loopback.running(type("Handler", (_Handler,), {"hub": hub})) as hub.address:
        yield hub


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self):
        match unquote(urlsplit(self.path).path).strip("/").removeprefix("datasets/").split("/"):
            case ["api", "models" | "datasets", owner, name, *rest] if f"{owner}/{name}" in self.hub.repositories:
                self.listing(f"{owner}/{name}", rest)
            case [owner, name, "resolve", _, *path] if "/".join(path) in self.hub.repositories.get(
                f"{owner}/{name}", ()
            ):
                self.file(self.hub.repositories[f"{owner}/{name}"]["/".join(path)], "/".join(path))
            case [owner, name, *_] if f"{owner}/{name}" in self.hub.repositories:
                self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            case _:
                self.json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def listing(self, repository: str, rest: list[str]) -> None:
        files = self.hub.repositories[repository]
        if rest[:1] == ["tree"]:
            self.json([{"type": "file", "path": name, "size": len(x), "oid": _oid(x)} for name, x in files.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            shown = {"private": repository in self.hub.private, "tags": []}
            self.json({"id": repository, "sha": COMMIT, "siblings": siblings, **shown})

    def file(self, content: bytes, name: str) -> None:
        if self.command == "GET":
            self.hub.requested.append(name)
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        self.answer(200, content, headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.hub.redirected[0] and self.hub.redirected[0] in parts:
            return self.answer(307, b"", {"Location": self.hub.redirected[1]})
        time.sleep(self.hub.slow in parts)
        if parts == ["api", "validate-yaml"]:
            return self.validate(json.loads(body)["content"])
        if token not in self.hub.tokens:
            return self.json({"error": "Invalid username or password."}, 401)
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(body), self.hub.tokens[token])
            case ["api", "models", owner, name, "preupload", "main"]:
                self.preupload(self.hub.repositories[f"{owner}/{name}"], json.loads(body)["files"])
            case [_, _, "info", "lfs", "objects", "batch"]:
                self.batch(json.loads(body)["objects"])
            case ["api", "models", owner, name, "commit", "main"]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case _:
                self.json({"error": "no such address"}, 404)

    def validate(self, card: str) -> None:
        errors = [] if card.startswith("---\n") else [{"message": "no metadata"}]
        self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self, fields: dict, owners: tuple[str, ...]) -> None:
        repository = f"{fields['organization']}/{fields['name']}"
        if fields["organization"] not in owners:
            return self.json({"error": f"You don't have the rights to create {repository}"}, 403)
        if repository in self.hub.repositories:
            url = f"{self.hub.address}/{repository}"
            return self.json({"error": "You already created this model repo", "url": url}, 409)
        self.hub.repositories[repository] = {}
        if fields.get("visibility") == "private" or fields.get("private"):
            self.hub.private.append(repository)
        self.json({"url": f"{self.hub.address}/{repository}", "name": repository, "id": repository})

    def preupload(self, held: dict[str, bytes], files: list[dict]) -> None:
        modes = []
        for path in (file["path"] for file in files):
            mode = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
            modes.append(mode | {"oid": _oid(held[path]) if path in held else None})
        self.json({"files": modes})

    def batch(self, objects: list[dict]) -> None:
        upload = [{**x, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{x['oid']}"}}} for x in objects]
        self.json({"transfer": "basic", "objects": upload}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.json({"error": "wrong checksum"}, 400)
        self.hub.lfs[oid] = content
        self.answer(200, b"", {"ETag": f'"{oid}"'})

    def commit(self, repository: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repositories[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repositories[repository][value["path"]] = self.hub.lfs[value["oid"]]
        address = f"{self.hub.address}/{repository}/commit/{COMMIT}"
        self.json({"success": True, "commitOid": COMMIT, "commitUrl": address})

    def json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def _oid(content: bytes) -> str:
    """git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
