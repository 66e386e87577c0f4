"""Carries connections from a box's listening socket to one address of the host: the only way out of the box.

The socket was made inside the box and so belongs to its network namespace, but this process accepts on it: nothing runs
inside, and nothing else is reachable. Bytes are passed on unread.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

_MAX_CONNECTIONS = 256
"""Of one box at a time, each of which takes three descriptors of this process. An agent with sub-agents has a dozen."""


class Forwarder:
    """Serves ``listener`` (taken over) until ``close``."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener = listener
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[_End] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Inside(self._target, self._open), sock=self._listener)

    def close(self) -> None:
        """Idempotent; cuts what is still open."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for end in list(self._open):
            end.abort()


class _End(asyncio.Protocol):
    """One end of a carried connection. Reading here stops while the other end's writing is full."""

    def __init__(self, ends: set[_End]) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self.ended = False
        self.early = bytearray()  # what came before the other end was there
        self._ends = ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self.peer.transport is None:
            self.early += data
            if self.transport is not None:
                self.transport.pause_reading()
        else:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.peer is None or self.peer.transport is None:
            return True  # passed on once there is somebody to pass it to
        if self.peer.ended:
            return False
        self.peer.transport.write_eof()
        return True  # half-closed: the other direction may still carry a streamed reply

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Inside(_End):
    """The box's end: dials the target as soon as it is connected."""

    def __init__(self, target: tuple[str, int], ends: set[_End]) -> None:
        super().__init__(ends)
        self._target = target
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._ends) > 2 * _MAX_CONNECTIONS:
            self.abort()
            return
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        outside = _End(self._ends)
        outside.peer = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: outside, *self._target)
        except OSError:
            self.abort()  # the agent sees a closed connection and retries
            return
        self.peer = outside
        assert self.transport is not None and outside.transport is not None
        if self.transport.is_closing():
            outside.transport.close()
            return
        outside.transport.write(bytes(self.early))
        if self.ended:
            outside.transport.write_eof()
        else:
            self.transport.resume_reading()
