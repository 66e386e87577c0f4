"""Registries: Debian's, with TLS and a password, and a small one of our own that can be told to fail."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from runtime.oci import credentials
from tests.certificates import Authority
from tests.oci_images import Made
from tests.toolbox import require_command

USER, PASSWORD = "somebody", "secret"
_HASH = "$2b$04$kQHZJgCUgK/jHKGC6h3k5.amgfwv.4vDArDy9ADXt11JiE5kUUoHu"  # of the password
CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}/data}}}}
http: {{addr: "127.0.0.1:{port}", tls: {{certificate: {root}/tls/cert.pem, key: {root}/tls/key.pem}}}}
auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}
"""


@dataclass(frozen=True)
class RealRegistry:
    host: str
    ca: Path

    def push(self, name: str, made: Made, tag: str = "latest") -> str:
        """The reference of an image that is in the registry from now on."""
        with httpx.Client(
            base_url=f"https://{self.host}/v2/{name}", verify=_trust(self.ca), auth=(USER, PASSWORD)
        ) as at:
            for digest, blob in made.blobs.items():
                place = at.post("/blobs/uploads/").raise_for_status().headers["Location"]
                at.put(f"{place}&digest={digest}", content=blob).raise_for_status()
            kind = {"Content-Type": json.loads(made.manifest)["mediaType"]}
            at.put(f"/manifests/{tag}", content=made.manifest, headers=kind).raise_for_status()
        return f"{self.host}/{name}:{tag}"


def _trust(ca: Path):  # type: ignore[no-untyped-def]
    import ssl

    return ssl.create_default_context(cafile=str(ca))


@pytest.fixture(scope="session")
def _registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    program = require_command("docker-registry", package="docker-registry")
    root = tmp_path_factory.mktemp("registry")
    Authority(root / "authority").issue(root / "tls", "IP:127.0.0.1")
    (root / "htpasswd").write_text(f"{USER}:{_HASH}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "config.yml").write_text(CONFIG.format(root=root, port=port))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(root / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (root / "log").read_text()
            time.sleep(0.05)
        yield RealRegistry(f"127.0.0.1:{port}", root / "authority" / "ca.pem")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def registry(_registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealRegistry:
    """Debian's docker-registry, and this machine knows its authority and its password."""
    folder = tmp_path / "certs.d" / _registry.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(_registry.ca.read_bytes())
    monkeypatch.setattr(credentials, "CERTIFICATES", (str(tmp_path / "certs.d"),))
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {_registry.host: {"auth": login}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    return _registry


@dataclass
class FaultyRegistry:
    """Without TLS. ``faults``: what befalls the next requests for blobs, each ``429``, ``500``, ``cut`` or ``shifted``;
    ``token``: wants one, which is good for ``lives`` answers and then another; ``refused``: what befalls the next who
    ask for one; ``challenges``: how it says that it wants one. ``elsewhere``: blobs are at another host's, and what
    befalls those who are sent there. ``seen``: (path, range) of every request that got content."""

    host: str
    images: dict[str, Made] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    token: str = ""
    lives: int = 1_000_000
    refused: list[int] = field(default_factory=list)
    challenges: tuple[str, ...] = ('Bearer realm="http://{host}/token",service="test",scope="pull"',)
    elsewhere: list[int] | None = None
    told: list[tuple[str, str]] = field(default_factory=list)
    """(path, what was shown) of every request."""
    seen: list[tuple[str, str]] = field(default_factory=list)

    def push(self, name: str, made: Made) -> str:
        self.images[name] = made
        return f"{self.host}/{name}:latest"


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            state.told.append((self.path, self.headers.get("Authorization", "")))
            if self.path.startswith("/token"):
                if state.refused:
                    return self._answer(state.refused.pop(0), b"")
                return self._answer(200, json.dumps({"token": state.token}).encode())
            sent = self.path.startswith("/elsewhere")
            self.path = self.path.removeprefix("/elsewhere")
            if sent and state.elsewhere:
                return self._answer(state.elsewhere.pop(0), b"", {"WWW-Authenticate": state.challenges[0]})
            if state.token and not sent:
                if self.headers.get("Authorization") != f"Bearer {state.token}":
                    self.send_response(401)
                    for one in state.challenges:
                        self.send_header("WWW-Authenticate", one.format(host=state.host))
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                state.lives -= 1
                if state.lives % 3 == 0 and state.lives < 1000:
                    state.token += "x"
            if "/blobs/" in self.path and state.elsewhere is not None and not sent:
                place = f"http://localhost:{self.server.server_address[1]}/elsewhere{self.path}"
                return self._answer(307, b"", {"Location": place})
            name, kind, wanted = self.path.removeprefix("/v2/").rsplit("/", 2)
            made = state.images.get(name)
            content = None
            if made is not None:
                content = made.documents.get(wanted, made.manifest) if kind == "manifests" else made.blobs.get(wanted)
            if content is None:
                return self._answer(404, b"{}")
            if kind == "blobs" and state.faults:
                fault = state.faults.pop(0)
                if fault == "shifted":
                    return self._answer(206, content, {"Content-Range": f"bytes 1-{len(content)}/*"})
                if fault != "cut":
                    return self._answer(int(fault), b"", {"Retry-After": "7"} if fault == "429" else {})
                self._answer(200, content, sent=len(content) // 2)
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            span = self.headers.get("Range", "")
            start = int(span.removeprefix("bytes=").rstrip("-") or 0)
            return self._answer(206 if span else 200, content[start:])

        def _answer(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, *, sent: int = -1
        ) -> None:
            if status in (200, 206):
                state.seen.append((self.path, self.headers.get("Range", "")))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:sent] if sent >= 0 else content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = FaultyRegistry(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
