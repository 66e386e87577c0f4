"""A chat-completions client in the standard library: one kept-alive connection, the official ``openai`` client's JSON.

Runs inside sandboxes, where importing ``http.client`` alone would cost more than a trial's tests. Knows no tools.
"""

from __future__ import annotations

import json
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RETRIES = 3


class Unavailable(Exception):
    """The endpoint could not be reached, or failed on its own side, several times in a row."""


class Refused(Exception):
    """The endpoint refused the request (4xx). ``code`` is its error code, such as ``context_length_exceeded``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code


class Client:
    """Speaks HTTP/1.1 to ``http://host:port/path``; ``secret`` travels as a bearer token."""

    def __init__(self, base_url: str, secret: str, *, timeout: float = 600.0) -> None:
        host, _, path = base_url.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        self._address = (name, int(port or 80))
        self._path = f"/{path}/v1/chat/completions"
        self._head = f"Host: {host}\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n"
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._buffer = b""

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """One chat completion. Retries what is worth retrying; raises ``Refused`` or ``Unavailable``."""
        for attempt in range(RETRIES):
            try:
                status, payload = self._post(json.dumps(body).encode())
            except (OSError, ValueError) as error:
                self.close()
                if attempt == RETRIES - 1:
                    raise Unavailable(str(error)) from error
            else:
                if status == 200:
                    answer: dict[str, Any] = json.loads(payload)
                    return answer
                if status < 500 and status != 429:
                    raise _refused(status, payload)
                if attempt == RETRIES - 1:
                    raise Unavailable(f"status {status}: {payload[:200]!r}")
            time.sleep(0.1 * 4**attempt)
        raise Unavailable("no attempt was made")

    def _post(self, data: bytes) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._buffer = b""
        self._socket.sendall(
            f"POST {self._path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        )
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            payload = b""
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                payload += self._exactly(size + 2)[:-2]
            self._until(b"\r\n")
        else:
            payload = self._exactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, payload

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        part, _, self._buffer = self._buffer.partition(mark)
        return part

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def _more(self) -> None:
        part = self._socket.recv(1 << 16) if self._socket else b""
        if not part:
            raise ConnectionError("the endpoint closed the connection")
        self._buffer += part

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _refused(status: int, payload: bytes) -> Refused:
    try:
        error = json.loads(payload).get("error") or {}
    except (ValueError, AttributeError):
        error = {}
    return Refused(status, str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")[:300])
