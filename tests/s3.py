"""An S3 server on loopback, and a proxy before it that fails as networks and services do, on a seeded schedule.

with moto_server() as server, Proxy(server.address, seed=1, share=0.1) as proxy:
    open_storage(proxy.uri)
"""

from __future__ import annotations

import http.client
import http.server
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from pyarrow import fs

FAULTS = ("500", "503", "reset before", "reset within", "reset after", "reset answer")
_CODES = {"500": "InternalError", "503": "SlowDown"}


@dataclass(frozen=True)
class Server:
    """Where an S3 service listens, and the keys that it takes."""

    address: str
    key: str = "key"
    secret: str = "secret"  # noqa: S105

    def uri(self, path: str, address: str = "") -> str:
        """Return what a study calls this storage."""
        where = f"scheme=http&endpoint_override={address or self.address}&region=us-east-1"
        return f"s3://{quote(self.key, safe='')}:{quote(self.secret, safe='')}@{path}?{where}"

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        keys = {"access_key": self.key, "secret_key": self.secret, "region": "us-east-1"}
        where = {"endpoint_override": self.address, "scheme": "http"}
        fs.S3FileSystem(allow_bucket_creation=True, **keys, **where).create_dir(name)


@contextmanager
def moto_server(ip: str = "127.0.0.1") -> Iterator[Server]:
    """Start moto's server."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address=ip, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Server(f"{host}:{port}")
    finally:
        server.stop()


class Proxy:
    """Passes requests on; a share of them meets a fault."""

    def __init__(self, server: Server, *, seed: int = 0, share: float = 0.0) -> None:
        self.server, self.share = server, share
        self.happened: Counter[str] = Counter()
        """Faults by kind, and requests by method."""
        self.always: dict[str, str] = {}
        """Part of `METHOD path` -> the fault that such a request always meets."""
        self.delay_s = 0.0
        self._rng, self._lock = random.Random(seed), threading.Lock()  # noqa: S311
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"127.0.0.1:{self._http.server_address[1]}"

    def uri(self, path: str) -> str:
        """Return what a study calls the storage behind this proxy."""
        return self.server.uri(path, self.address)

    def fault(self, request: str) -> str:
        """Return what happens to a request; empty for nothing."""
        with self._lock:
            found = next((fault for part, fault in self.always.items() if part in request), "")
            if not found and self._rng.random() < self.share:
                found = self._rng.choice(FAULTS)
            self.happened.update([request.split(maxsplit=1)[0], *([found] if found else [])])
        return found

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _handle(self) -> None:
        fault = self.proxy.fault(f"{self.command} {self.path}")
        if fault == "reset before":
            self._reset()
            return
        body = self._body(cut=fault == "reset within")
        threading.Event().wait(self.proxy.delay_s)
        if fault == "reset within":
            self._reset()
        elif fault in _CODES:
            text = f"<Error><Code>{_CODES[fault]}</Code><Message>a fault</Message></Error>".encode()
            self._answer(int(fault), [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
        else:
            self._pass_on(body, fault)

    def _body(self, cut: bool) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length // 2 if cut else length)
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size // 2 if cut else size)
            if cut:
                return body
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers: checksums that the service need not see
            pass
        return body

    def _pass_on(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.proxy.server.address, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection", "transfer-encoding", "content-length", "trailer"):
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        skipped = ("connection", "transfer-encoding", *(() if self.command == "HEAD" else ("content-length",)))
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in skipped]
        upstream.close()
        if fault == "reset after":
            self._reset()
        else:
            self._answer(answer.status, headers, data, cut=fault == "reset answer")

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close the connection so that the client sees a reset, not an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the client, or a fault of ours, has gone
            self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *arguments: Any) -> None:
        """Report nothing."""

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle
