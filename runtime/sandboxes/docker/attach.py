"""A container's standard input and output as a box's control channel: for engines on other machines.

Docker's API hands the connection of one request over to the two streams ("hijacking"): after the head of the answer,
what we write is the container's input, and what comes are frames of its output and errors. It does not know what is
said over it.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

from runtime.errors import Termination, TrialError
from runtime.sandboxes.channel import Channel
from runtime.sandboxes.docker.connection import Connection
from runtime.sandboxes.docker.tunnel import Tunnel
from runtime.sandboxes.guest import wire

_FRAME = struct.Struct("!BxxxI")  # 1: output, 2: errors; bytes
_MAX_HEAD = 1 << 16
_KEPT = 2000


class Attached(asyncio.Protocol):
    """Unwraps what the engine sends into ``channel``. ``said``: the last of the container's standard error.

    ``tunnel``: takes the box's messages after its greeting.
    """

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.channel = Channel(-1, on_message=self._message)
        self.tunnel: Tunnel | None = None
        self.said = b""
        self.open: asyncio.Future[None] = loop.create_future()
        self.greeting: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._request = request
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.open.done() and not self._head():
            return
        while len(self._data) >= _FRAME.size:
            kind, size = _FRAME.unpack_from(self._data)
            if size > wire.MAX_BLOBS:
                self.connection_lost(None)
                return
            end = _FRAME.size + size
            if len(self._data) < end:
                return
            content = bytes(self._data[_FRAME.size : end])
            del self._data[:end]
            if kind == 2:
                self.said = (self.said + content)[-_KEPT:]
            else:
                self.channel.data_received(content)

    def _head(self) -> bool:
        """Whether the engine has handed the connection over."""
        head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
        if not found:
            if len(self._data) > _MAX_HEAD:
                self._refuse("an endless answer")
            return False
        status = head.split(b"\r\n")[0].split(b" ", 2)
        if len(status) < 2 or status[1] not in (b"101", b"200"):
            self._refuse(f"{status[-1].decode(errors='replace')}: {rest[:300].decode(errors='replace').strip()}")
            return False
        self._data[:] = rest
        assert self._transport is not None
        self.channel.connection_made(self._transport)
        self.open.set_result(None)
        return True

    def _refuse(self, why: str) -> None:
        self.open.set_exception(ConnectionError(f"attach: {why}"))
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(ConnectionError(f"attach: {exc or 'the engine hung up'}"))
        elif not self.greeting.done():
            self.greeting.set_result({"error": self.said.decode(errors="replace").strip() or "it ended at once"})
        self.channel.connection_lost(exc)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _message(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        if not self.greeting.done():
            self.greeting.set_result(header)
        elif self.tunnel is not None:
            self.tunnel.message(header, blobs)


async def attach(connection: Connection, container: str, *, timeout_sec: float) -> Attached:
    """Connect to a container that was made and not yet started. Raises ``OSError``, ``TimeoutError``."""
    loop = asyncio.get_running_loop()
    host = "localhost" if connection.local else connection.address[0]
    head = (
        f"POST /containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
        f"Host: {host}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )
    protocol = Attached(head.encode())
    try:
        async with asyncio.timeout(timeout_sec):
            if connection.local:
                await loop.create_unix_connection(lambda: protocol, connection.path)
            else:
                await loop.create_connection(lambda: protocol, *connection.address, ssl=connection.context)
            await protocol.open
    except BaseException:
        protocol.close()
        raise
    return protocol


async def greet(attached: Attached, *, timeout_sec: float) -> None:
    """Wait for the supervisor's first message. Raises ``TrialError(ENV_SETUP_FAILED)`` with what it said."""
    try:
        async with asyncio.timeout(timeout_sec):
            why = (await attached.greeting).get("error")
    except TimeoutError:
        why = attached.said.decode(errors="replace").strip() or "no word from its supervisor"
    if why is not None:
        raise TrialError(Termination.ENV_SETUP_FAILED, f"the sandbox did not start: {why}")
