"""What stands between our backend and a real engine or registry when they are to fail: real sockets, real protocols."""

import contextlib
import gzip
import hashlib
import io
import json
import re
import socket
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Fault:
    """Answers ``times`` requests that match ``what`` (``METHOD /path``) with ``status``; 0: hangs up instead.

    after: only once the engine has done what it was asked for.
    """

    what: str
    status: int
    message: str = "injected"
    times: int = 1
    after: bool = False


@dataclass
class FaultyEngine:
    """A socket at ``path`` that passes everything on to the engine's, but for ``faults``. ``seen``: all requests."""

    path: Path
    engine: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @contextmanager
    def serving(self) -> Iterator["FaultyEngine"]:
        faulty = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    faulty._handle(self.request)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        with Server(str(self.path), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
        self.path.unlink()

    def _handle(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(1 << 16)
            if not data:
                return
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        what = re.sub(r" /v[0-9.]+", " ", head.split(b" HTTP/")[0].decode())
        with self._lock:
            self.seen.append(what)
            fault = next((fault for fault in self.faults if fault.times and re.match(fault.what, what)), None)
            if fault is not None:
                fault.times -= 1
        if fault is None or fault.after:
            with socket.socket(socket.AF_UNIX) as inside:
                inside.connect(self.engine)
                if b"\r\nUpgrade:" not in head:  # one request per connection, so that each can be matched
                    head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head) + b"\r\nConnection: close"
                inside.sendall(head + b"\r\n\r\n" + body)
                up = threading.Thread(target=_pump, args=(connection, inside), daemon=True)
                up.start()
                if fault is None:
                    _pump(inside, connection)
                    up.join(60)
                    return
                while inside.recv(1 << 16):  # done, and nobody hears of it
                    pass
        if fault.status:
            said = json.dumps({"message": fault.message}).encode()
            lines = [f"HTTP/1.1 {fault.status} Injected", "Content-Type: application/json", "Connection: close"]
            connection.sendall("\r\n".join([*lines, f"Content-Length: {len(said)}", "", ""]).encode() + said)
        connection.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@dataclass
class Registry:
    """A registry with one tiny image, ``NAME:1``. ``busy``: how many requests for manifests it answers with 429."""

    busy: int = 0
    asked: int = 0
    port: int = 0

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/tiny:1"

    @contextmanager
    def serving(self) -> Iterator["Registry"]:
        blobs, manifest = _tiny()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, _, name = self.path.rpartition("/")
                if kind.endswith("manifests"):
                    registry.asked += 1
                    if registry.busy:
                        registry.busy -= 1
                        error = {"errors": [{"code": "TOOMANYREQUESTS", "message": "toomanyrequests: slow down"}]}
                        self.answer(429, json.dumps(error).encode(), "application/json")
                    elif name == "1" or name == _digest(manifest):
                        self.answer(200, manifest, "application/vnd.docker.distribution.manifest.v2+json")
                    else:
                        error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
                        self.answer(404, json.dumps(error).encode(), "application/json")
                elif kind.endswith("blobs") and name in blobs:
                    self.answer(200, blobs[name], "application/octet-stream")
                else:
                    self.answer(200 if self.path == "/v2/" else 404, b"{}", "application/json")

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                headers = {
                    "Content-Type": kind,
                    "Content-Length": str(len(body)),
                    "Docker-Content-Digest": _digest(body),
                }
                for name, value in {**headers, "Docker-Distribution-Api-Version": "registry/2.0"}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _tiny() -> tuple[dict[str, bytes], bytes]:
    """(digest -> blob, manifest) of an image with one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        archive.addfile(member, io.BytesIO(b""))
    layer = gzip.compress(stream.getvalue(), mtime=0)
    root = {"type": "layers", "diff_ids": [_digest(stream.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}).encode()
    prefix = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.distribution.manifest.v2+json",
        "config": {"mediaType": f"{prefix}.container.image.v1+json", "size": len(config), "digest": _digest(config)},
        "layers": [{"mediaType": f"{prefix}.image.rootfs.diff.tar.gzip", "size": len(layer), "digest": _digest(layer)}],
    }
    return {_digest(config): config, _digest(layer): layer}, json.dumps(manifest).encode()
