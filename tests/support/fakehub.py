"""A small Hub on this machine: the endpoints that reading a model needs, and faults on demand.

    with FakeHub() as hub:
        sha = hub.commit({"transformer/config.json": b"{}"})
        hub.fault("GET .*config.json", status(503), None)   # the first time only

Files that end as LARGE says are large files: announced with their sha256, as on the real Hub.
`writehub.py` has what publishing needs besides.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

Fault = Callable[["Handler"], None]
FOREVER = 10**6
TOKEN = "hf_verysecrettoken"
LARGE = (".safetensors", ".pt", ".gguf")
CLIENTS_OWN = "GET /api/agent-harnesses"
"""What the Hub's client asks for once a day by itself: it counts for nothing."""


def use(url: str, monkeypatch) -> None:
    """Let the Hub's client talk to this address."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class FakeHub:
    """One model, `name`, with commits and branches; a web server in a thread."""

    private = False

    @property
    def handler(self) -> type[Handler]:
        return Handler

    def __init__(self, name: str = "org/klein", host: str = "127.0.0.1") -> None:
        self.name, self.host = name, host
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.lies: dict[str, bytes] = {}
        """Path -> what is served in place of what was announced."""
        self.listing: Callable[[list[dict]], list[dict]] = lambda siblings: siblings
        self.cdn: FakeHub | None = None
        """Another server, to which downloads of large files are redirected."""
        self.after: Callable[[str], None] = lambda request: None
        """Called after each answer with `METHOD path`."""
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.body_bytes = 0
        self._faults: list[tuple[re.Pattern[str], list[Fault | None]]] = []
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def __enter__(self) -> FakeHub:
        hub = self

        class Bound(self.handler):
            pass

        Bound.hub = hub
        self._server = ThreadingHTTPServer((self.host, 0), Bound)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._server.server_port}"

    def commit(self, files: dict[str, bytes] | Path, branch: str = "main") -> str:
        """Add a commit with these files (or a folder's) and move a branch to it; -> its sha."""
        if isinstance(files, Path):
            found = (p for p in sorted(files.rglob("*")) if p.is_file())
            files = {str(p.relative_to(files)): p.read_bytes() for p in found}
        text = json.dumps([len(self.commits), sorted(files)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def fault(self, pattern: str, *faults: Fault | None, times: int = 1) -> None:
        """Answer the next requests that match with these faults in turn; None: a good answer."""
        self._faults.append((re.compile(pattern), list(faults) * times))

    def clear(self) -> None:
        """Forget what was asked and what is to go wrong."""
        self._faults.clear()
        self.requests.clear()
        self.headers.clear()
        self.body_bytes = 0

    def next_fault(self, request: str) -> Fault | None:
        with self._lock:
            for pattern, faults in self._faults:
                if faults and pattern.search(request):
                    return faults.pop(0)
        return None

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class Handler(BaseHTTPRequestHandler):
    """Model info, and HEAD and GET of files with ranges."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: the client need not wait for the second

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        if request == CLIENTS_OWN:
            self.answer(404, b"{}", {})
            return
        self.hub.requests.append(request)
        self.hub.headers.append(dict(self.headers))
        fault = self.hub.next_fault(request)
        if fault:
            fault(self)
        else:
            self._route(request.partition(" ")[2])
        self.hub.after(request)

    def _route(self, path: str) -> None:
        name = re.escape(self.hub.name)
        if m := re.fullmatch(rf"/api/models/{name}(?:/revision/(.+))?", path):
            self._info(m[1] or "main")
        elif m := re.fullmatch(rf"/{name}/resolve/([^/]+)/(.+)", path):
            self._file(m[1], m[2])
        elif m := re.fullmatch(r"/cdn/([0-9a-f]+)/(.+)", path):
            self._body(self.hub.commits[m[1]][m[2]], {})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _info(self, revision: str) -> None:
        sha = self.hub.find(revision)
        if sha is None:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [self._sibling(p, data) for p, data in self.hub.commits[sha].items()]
        siblings = self.hub.listing(siblings)
        text = json.dumps({"id": self.hub.name, "sha": sha, "siblings": siblings,
                           "private": self.hub.private})  # fmt: skip
        self.answer(200, text.encode(), {"Content-Type": "application/json"})

    def _sibling(self, path: str, data: bytes) -> dict:
        entry = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, revision: str, path: str) -> None:
        sha = self.hub.find(revision)
        if sha is None or path not in self.hub.commits[sha]:
            code = "RevisionNotFound" if sha is None else "EntryNotFound"
            self.answer(404, b"{}", {"X-Error-Code": code})
            return
        data = self.hub.commits[sha][path]
        large = path.endswith(LARGE)
        etag = hashlib.sha256(data).hexdigest() if large else git_hash(data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if large and self.hub.cdn:
            self.answer(302, b"", headers | {"Location": f"{self.hub.cdn.url}/cdn/{sha}/{path}"})
            return
        self._body(self.hub.lies.get(path, data), headers)

    def _body(self, data: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self.answer(200, data, headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        self.answer(206, data[start:stop], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: int = 0) -> None:
        """Send an answer. cut: bytes at the end that are announced and not sent."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            sent = body[: len(body) - cut]
            with self.hub._lock:
                self.hub.body_bytes += len(sent)
            try:
                self.wfile.write(sent)
            except OSError:
                pass  # the client had enough
        if cut:
            self.close_connection = True


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def status(code: int, message: str = "", **headers: str) -> Fault:
    """A status with the Hub's way to explain it. Names of headers with _ for -."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    body = json.dumps({"error": message} if message else {}).encode()
    return lambda handler: handler.answer(code, body, named)


def page(handler: Handler) -> None:
    """What a hotel's login page answers to everything."""
    handler.answer(200, b"<!DOCTYPE html><html>Welcome</html>" * 40, {"Content-Type": "text/html"})


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def stall(handler: Handler) -> None:
    """Never answer."""
    handler.hub.stop.wait(30)
    handler.close_connection = True


def body(data: bytes, *, cut: int = 0, **headers: str) -> Fault:
    """These bytes, whatever range was asked for."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return lambda handler: handler.answer(200, data, named, cut=cut)
