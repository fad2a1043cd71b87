"""A stand-in for the Hugging Face hub: the part of its HTTP interface that huggingface_hub uses for models.

Repositories lie in memory. Large files go by Git LFS as on the hub: announced in a batch, put at an address of their
own, and named in the commit by their sha256; they are read by way of a redirection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx", ".pt2", ".bin")
WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repo:
    """One repository: its commits, oldest first, each with the whole tree: path → sha256 of the file."""

    private: bool = False
    commits: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def tree(self, revision: str) -> tuple[str, dict[str, str]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """What is on the hub, and what it was asked."""

    url: str = ""
    storage: str = ""
    """Where large files lie: another host, as on the hub, whose redirections to itself mean a renamed repository."""

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, name: str, files: dict[str, bytes], *, private: bool = False, removed: tuple[str, ...] = ()) -> str:
        """Commit files; returns the commit's hash."""
        repo = self.repos.setdefault(name, Repo(private))
        tree = dict(repo.commits[-1][1]) if repo.commits else {}
        for path in removed:
            del tree[path]
        for path, content in files.items():
            tree[path] = self.keep(content)
        commit = hashlib.sha1(f"{name} {len(repo.commits)} {sorted(tree.items())}".encode()).hexdigest()
        repo.commits.append((commit, tree))
        return commit

    def keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def files(self, name: str) -> dict[str, bytes]:
        """What a repository holds now."""
        return {path: self.blobs[digest] for path, digest in self.repos[name].commits[-1][1].items()}


class Handler(BaseHTTPRequestHandler):
    """Answers for one hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["lfs", digest] if self.command == "PUT":
                right = hashlib.sha256(self.body).hexdigest() == digest
                self.hub.keep(self.body)
                self._answer(200 if right else 400)
            case ["lfs", digest]:
                self._answer(200, self.hub.blobs[digest], {"ETag": f'"{digest}"'})
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, *rest]:
                if self._may_see(f"{owner}/{name}"):
                    self._model(f"{owner}/{name}", rest)
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._batch(f"{owner}/{name.removesuffix('.git')}")
            case [owner, name, "resolve", revision, *path]:
                if self._may_see(f"{owner}/{name}"):
                    self._file(f"{owner}/{name}", revision, "/".join(path))
            case _:
                self._answer(404)

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _may_see(self, name: str) -> bool:
        """Whoever shows no token is not told whether a repository is private or is not there."""
        repo = self.hub.repos.get(name)
        known = self.token in (WRITER, READER)
        if repo is None or (repo.private and not known):
            self._refuse(404 if known else 401, "RepoNotFound")
            return False
        return True

    def _may_write(self) -> bool:
        if self.token != WRITER:
            self._answer(403 if self.token == READER else 401, {"error": "no right to write"})
            return False
        return True

    def _create(self) -> None:
        if self._may_write():
            asked = json.loads(self.body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                self._answer(409, {"url": f"{self.hub.url}/{name}"})
                return
            self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.hub.repos[name].private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _model(self, name: str, rest: list[str]) -> None:
        match rest:
            case []:
                commit, tree = self.hub.repos[name].commits[-1]
                listed = [{"rfilename": path} for path in tree]
                self._answer(200, {"id": name, "modelId": name, "sha": commit, "siblings": listed, "tags": []})
            case ["preupload", "main"] if self._may_write():
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.body)["files"]
                ]
                self._answer(200, {"files": files})
            case ["commit", "main"] if self._may_write():
                self._commit(name)
            case _ if self.command != "POST":
                self._answer(404)

    def _batch(self, name: str) -> None:
        if self._may_write():
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.storage}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(self.body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", self.hub.repos[name].commits[-1][0]) != self.hub.repos[name].commits[-1][0]:
            self._answer(412, {"error": "somebody else has committed"})
            return
        files, removed = {}, []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                removed.append(value["path"])
        commit = self.hub.put(name, files, removed=tuple(removed))
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self.hub.repos[name].tree(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
            return
        commit, tree = found
        if path not in tree:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        digest = tree[path]
        told = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if path.endswith(LARGE):
            size = str(len(self.hub.blobs[digest]))
            linked = {
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": size,
                "Location": f"{self.hub.storage}/lfs/{digest}",
            }
            self._answer(302, b"", {**told, **linked})
        else:
            self._answer(200, self.hub.blobs[digest], told)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own, on a port of its own."""
    hub = Hub()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    httpd.daemon_threads = True
    hub.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    hub.storage = f"http://localhost:{httpd.server_address[1]}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        httpd.shutdown()
        httpd.server_close()
