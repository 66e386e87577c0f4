"""How the host and the supervisor in a container meet: at a socket file on this machine, or by the engine's attach.

A link is made before its container, gives options for its creation, and connects while it starts. Over a socket the
box hands out its process and its listener; over attach everything travels as messages. It does not know images.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from runtime.sandboxes.channel import Channel, greet, wait_readable
from runtime.sandboxes.docker import attach
from runtime.sandboxes.docker.connection import Connection
from runtime.sandboxes.docker.tunnel import Tunnel
from runtime.sandboxes.forwarder import Forwarder

START_SEC = 60.0
CONTROL = "/opt/liverl-control"

Start = Callable[[], Awaitable[None]]


class Link(Protocol):
    """``argument``: the last one of the program inside. ``options``: for the container's creation."""

    argument: str
    options: dict[str, Any]

    async def connect(self, container: str, start: Start) -> Channel:
        """Call ``start`` and wait for the supervisor. Raises ``TrialError``, ``OSError``, ``TimeoutError``."""

    async def forward(self, target: tuple[str, int]) -> None:
        """Carry connections to the box's listener to ``target``."""

    def close(self) -> None:
        """Idempotent; ends what ``connect`` and ``forward`` began, but for the channel."""


class SocketLink:
    """A socket file in ``folder``, which is shown in the container: read-only, which a socket can be called through all
    the same, so that nothing in the container reaches this machine's disk."""

    argument = f"{CONTROL}/s"

    def __init__(self, folder: Path) -> None:
        self.options = {"volumes": {str(folder): {"bind": CONTROL, "mode": "ro"}}}
        self._folder = folder
        folder.mkdir()
        self._listener = _listen(folder)
        self._inside: socket.socket | None = None
        self._forwarder: Forwarder | None = None

    async def connect(self, container: str, start: Start) -> Channel:
        await start()
        try:
            await asyncio.wait_for(wait_readable(self._listener.fileno()), START_SEC)
            connection, _ = self._listener.accept()
        finally:
            self._listener.close()
            (self._folder / "s").unlink(missing_ok=True)  # nobody else may call
        channel, _, descriptors = await greet(connection, timeout_sec=START_SEC)
        if descriptors:
            self._inside = socket.socket(fileno=descriptors[0])
        return channel

    async def forward(self, target: tuple[str, int]) -> None:
        assert self._inside is not None
        self._forwarder = Forwarder(self._inside, target)
        await self._forwarder.start()

    def close(self) -> None:
        self._listener.close()
        if self._forwarder is not None:
            self._forwarder.close()
        if self._inside is not None:
            self._inside.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class AttachLink:
    """The container's standard input and output. When the connection ends, whatever the reason, so does the box."""

    argument = "-"

    def __init__(self, connection: Connection) -> None:
        self.options = {"stdin_open": True}
        self._connection = connection
        self._attached: attach.Attached | None = None

    async def connect(self, container: str, start: Start) -> Channel:
        self._attached = await attach.attach(self._connection, container, timeout_sec=START_SEC)
        await start()
        await attach.greet(self._attached, timeout_sec=START_SEC)
        return self._attached.channel

    async def forward(self, target: tuple[str, int]) -> None:
        assert self._attached is not None
        self._attached.tunnel = Tunnel(self._attached.channel, target)

    def close(self) -> None:
        if self._attached is not None:
            if self._attached.tunnel is not None:
                self._attached.tunnel.close()
            self._attached.close()


def _listen(folder: Path) -> socket.socket:
    """A socket file ``s`` in ``folder``, named through a descriptor: the path itself may be too long for an address."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{place}/s")
        listener.listen(1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener
