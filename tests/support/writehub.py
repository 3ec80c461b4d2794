"""A small Hub that takes repos, uploads, commits and pull requests, and can die at any request.

with WriteHub("me/model") as hub:            # no repo yet
    hub.fault("POST .*/commit/", lost)       # the commit is made, its answer is not heard
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.fakehub import LARGE, FakeHub, Handler, git_hash

ATTRIBUTES = {".gitattributes": b"*.safetensors filter=lfs\n"}
STAMP = "2026-01-01T00:00:00.000Z"


class WriteHub(FakeHub):
    """One repo that is there once it was made; what was committed through the API is in `made`."""

    def __init__(self, name: str = "me/model", *, user: str = "me") -> None:
        super().__init__(name)
        self.user, self.created = user, False
        self.store: dict[str, bytes] = {}
        """Large files by sha256, as uploaded and verified."""
        self.uploads: dict[str, bytes] = {}
        self.sent = 0
        """Bytes of large files received."""
        self.chunk: int | None = None
        """Bytes of a part, where uploads come in parts."""
        self.made: list[dict[str, Any]] = []
        self.requests_open: list[dict[str, Any]] = []
        self.before: Callable[[str], None] = lambda request: None
        """Called before each request is carried out, `after` when it is answered."""
        self.tokens: list[str | None] = []
        self.corrupt: str = ""
        """A path that the Hub stores with another content."""

    @property
    def handler(self) -> type[Handler]:
        return WriteHandler

    def create(self, files: dict[str, bytes] | None = None, *, private: bool = False) -> str:
        """The repo as others left it; -> its first commit."""
        self.created, self.private = True, private
        return self.commit(ATTRIBUTES | (files or {}))

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a branch holds, without the Hub's own."""
        held = self.commits[self.branches[revision]]
        return {p: d for p, d in held.items() if p not in ATTRIBUTES}


class WriteHandler(Handler):
    """The endpoints that a publication meets."""

    hub: WriteHub
    payload = b""
    muted = False

    def do_POST(self) -> None:
        self.payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve()

    def do_PUT(self) -> None:
        self.do_POST()

    def _serve(self) -> None:
        self.hub.tokens.append(self.headers.get("Authorization"))
        self.hub.before(f"{self.command} {unquote(urlsplit(self.path).path)}")
        super()._serve()

    def answer(self, *args: Any, **more: Any) -> None:
        if not self.muted:
            super().answer(*args, **more)

    def say(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.answer(status, data, {"Content-Type": "application/json"})

    def _route(self, path: str) -> None:
        name = re.escape(self.hub.name)
        for method, pattern, call in (
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", self._validate),
            ("POST", rf"/api/models/{name}/preupload/(.+)", self._preupload),
            ("POST", rf"/{name}\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/([0-9a-f]{64})(?:/(\d+))?", self._receive),
            ("POST", r"/lfs/([0-9a-f]{64})/complete", self._complete),
            ("POST", r"/lfs/([0-9a-f]{64})/verify", self._verify),
            ("POST", rf"/api/models/{name}/commit/(.+)", self._commit),
            ("GET", rf"/api/models/{name}/discussions", self._discussions),
            ("POST", rf"/api/models/{name}/discussions", self._open_request),
            ("GET", rf"/api/models/{name}/discussions/(\d+)", self._discussion),
        ):
            if self.command == method and (m := re.fullmatch(pattern, path)):
                call(*m.groups())
                return
        if not self.hub.created:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        super()._route(path)

    def _whoami(self) -> None:
        self.say({"type": "user", "name": self.hub.user, "auth": {"type": "access_token"}})

    def _create(self) -> None:
        asked = json.loads(self.payload)
        url = f"{self.hub.url}/{self.hub.name}"
        if self.hub.created:
            self.say({"error": "You already created this model repo", "url": url}, 409)
            return
        self.hub.create(private=asked.get("visibility") == "private")
        self.say({"url": url, "id": self.hub.name, "name": self.hub.name})

    def _validate(self) -> None:
        self.say({"errors": [], "warnings": []})

    def _preupload(self, revision: str) -> None:
        head = self.hub.commits[self.hub.branches[revision]]
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": git_hash(head[f["path"]]) if f["path"] in head else None,
            }
            for f in json.loads(self.payload)["files"]
        ]
        self.say({"files": files})

    def _batch(self) -> None:
        objects = []
        for asked in json.loads(self.payload)["objects"]:
            oid, size = asked["oid"], asked["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.store:
                base = f"{self.hub.url}/lfs/{oid}"
                upload: dict[str, Any] = {"href": base}
                if self.hub.chunk:
                    parts = math.ceil(size / self.hub.chunk)
                    header = {str(i): f"{base}/{i}" for i in range(1, parts + 1)}
                    upload = {"href": f"{base}/complete",
                              "header": {"chunk_size": str(self.hub.chunk), **header}}  # fmt: skip
                entry["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
            objects.append(entry)
        self.say({"objects": objects, "transfer": "multipart" if self.hub.chunk else "basic"})

    def _receive(self, oid: str, part: str | None) -> None:
        self.hub.sent += len(self.payload)
        self.hub.uploads[f"{oid}/{part}" if part else oid] = self.payload
        self.answer(200, b"", {"ETag": f'"{part}"'})

    def _complete(self, oid: str) -> None:
        parts = json.loads(self.payload)["parts"]
        data = b"".join(self.hub.uploads[f"{oid}/{p['partNumber']}"] for p in parts)
        self.hub.uploads[oid] = data
        self.say({})

    def _verify(self, oid: str) -> None:
        data = self.hub.uploads.get(oid, b"")
        if hashlib.sha256(data).hexdigest() != oid:
            self.say({"error": "wrong content"}, 422)
            return
        self.hub.store[oid] = data
        self.say({})

    def _commit(self, revision: str) -> None:
        lines = [json.loads(line) for line in self.payload.splitlines()]
        header = lines[0]["value"]
        if revision not in self.hub.branches:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        head = self.hub.branches[revision]
        if header.get("parentCommit") not in (None, head):
            self.say({"error": "the branch has moved"}, 412)
            return
        files = dict(self.hub.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        if self.hub.corrupt:
            files[self.hub.corrupt] = b"x" * len(files[self.hub.corrupt])
        sha = self.hub.commit(files, revision)
        self.hub.made.append({"branch": revision, "sha": sha, "message": header["summary"]})
        self.say({"commitOid": sha, "commitUrl": f"{self.hub.url}/{self.hub.name}/commit/{sha}"})

    def _discussions(self) -> None:
        found = self.hub.requests_open
        self.say({"discussions": found, "count": len(found), "start": 0})

    def _open_request(self) -> None:
        asked = json.loads(self.payload)
        number = len(self.hub.requests_open) + 1
        self.hub.requests_open.append({
            "num": number, "title": asked["title"], "author": {"name": self.hub.user},
            "createdAt": STAMP, "status": "open", "isPullRequest": asked["pullRequest"],
            "repo": {"name": self.hub.name, "type": "model"},
        })  # fmt: skip
        self.hub.branches[f"refs/pr/{number}"] = self.hub.branches["main"]
        self.say({"num": number})

    def _discussion(self, number: str) -> None:
        more = {"changes": {"base": "main"}, "filesWithConflicts": [], "events": [], "diff": ""}
        self.say(self.hub.requests_open[int(number) - 1] | more)


def lost(handler: WriteHandler) -> None:
    """Do what was asked, and close the connection without an answer."""
    handler.muted = True
    handler._route(unquote(urlsplit(handler.path).path))
    handler.muted = False
    handler.close_connection = True
