"""A Hub on loopback with one data set, for tests: the requests that huggingface_hub makes to list and read files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

REPO = "faces/small"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class _Hub(BaseHTTPRequestHandler):
    files: Mapping[str, Mapping[str, bytes]]
    """Commit -> path -> content."""
    asked: list[str]

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if found := re.fullmatch(rf"/api/datasets/{REPO}/revision/(\S+)", path):
            commit = self.commit(found[1])
            self.json({"id": REPO, "sha": commit, "siblings": []} if commit else None)
        elif found := re.fullmatch(rf"/api/datasets/{REPO}", path):
            self.json({"id": REPO, "sha": COMMITS["main"], "siblings": []})
        elif found := re.fullmatch(rf"/api/datasets/{REPO}/tree/(\w+)(?:/(.*))?", path):
            self.json(self.tree(found[1], found[2] or ""))
        elif found := re.fullmatch(rf"/datasets/{REPO}/resolve/(\w+)/(.+)", path):
            self.file(self.files[self.commit(found[1])].get(found[2]), found[1], body=body)
        else:
            self.json(None)

    def commit(self, revision: str) -> str:
        return revision if revision in self.files else COMMITS.get(revision, "")

    def tree(self, revision: str, folder: str) -> list[dict[str, object]] | None:
        files, start = self.files[self.commit(revision)], f"{folder}/" if folder else ""
        below = [path for path in files if path.startswith(start)]
        rows: list[dict[str, object]] = []
        for name in dict.fromkeys(path[len(start) :].partition("/")[0] for path in below):
            data = files.get(start + name)
            oid = hashlib.sha1(data or name.encode()).hexdigest()  # noqa: S324  git's own
            kind = {"type": "directory"} if data is None else {"type": "file", "size": len(data)}
            rows.append({"path": start + name, "oid": oid, **kind})
        return rows or None

    def json(self, value: object) -> None:
        data = json.dumps(value if value is not None else {"error": "not found"}).encode()
        self.send_response(200 if value is not None else 404)
        if value is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def file(self, data: bytes | None, commit: str, *, body: bool) -> None:
        if data is None:
            self.json(None)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        last = min(len(data) - 1, int(wanted[2] or len(data) - 1)) if wanted else len(data) - 1
        part = data[first : last + 1]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def hub(files: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve these files, by revision; yield the address and the paths that were asked for."""
    asked: list[str] = []
    by_commit = {COMMITS[revision]: content for revision, content in files.items()}
    handler = type("Hub", (_Hub,), {"files": by_commit, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
