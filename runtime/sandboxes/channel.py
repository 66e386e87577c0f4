"""The host's end of a box's control socket: requests out, answers in, and the box's death noticed.

It does not know how the box was made. What arrives is bounded and treated as data.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from runtime.errors import Termination, TrialError
from runtime.sandboxes.guest import wire

Answer = tuple[dict[str, Any], list[bytes]]


class BoxLost(Exception):
    """The box ended, or broke the protocol, while an answer was awaited."""


class Channel(asyncio.Protocol):
    """One request at a time or many: answers are matched by id. ``kill`` ends the box, down to its last process.

    pidfd: of the box's first process; -1 where that runs on another machine: whoever made the box then ends it.
    on_message: takes what is no answer to a request.
    """

    def __init__(self, pidfd: int, *, on_message: Callable[[dict[str, Any], list[bytes]], None] | None = None) -> None:
        self._pidfd = pidfd
        self._on_message = on_message
        self._buffer = wire.Buffer()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._next = 0
        self._transport: asyncio.Transport | None = None
        self._lost: str | None = None

    @property
    def lost(self) -> bool:
        """Whether the box is known to be gone."""
        return self._lost is not None

    @property
    def pid(self) -> int:
        """The box's first process as this machine numbers it."""
        for line in Path(f"/proc/self/fdinfo/{self._pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
        raise ProcessLookupError("the sandbox ended")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance check: uvloop's transports, which Ray's workers use, are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for header, blobs in self._buffer.feed(data):
                future = self._waiting.pop(header.get("id", -1), None)
                if future is not None and not future.done():
                    future.set_result((header, blobs))
                elif self._on_message is not None and "id" not in header:
                    self._on_message(header, blobs)
        except (wire.WireError, TypeError, AttributeError) as error:
            self._fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the sandbox ended")

    async def request(self, header: dict[str, Any], blobs: Sequence[bytes] = (), *, timeout_sec: float) -> Answer:
        """Raises ``BoxLost``, also when no answer comes in time."""
        if self._lost is not None or self._transport is None:
            raise BoxLost(self._lost or "the sandbox is not running")
        self._next += 1
        number = self._next
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._transport.write(wire.encode({"id": number, **header}, blobs))
        try:
            return await asyncio.wait_for(future, timeout_sec)
        except TimeoutError:
            raise BoxLost(f"no answer to {header['op']} within {timeout_sec:.0f} s") from None
        finally:
            self._waiting.pop(number, None)

    def post(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Send what gets no answer; nothing happens if the box is gone."""
        if self._lost is None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.encode(header, blobs))

    async def kill(self) -> None:
        """Idempotent. Returns when every process of the box is gone."""
        if self._transport is not None:
            self._transport.close()
        if self._pidfd < 0:
            return
        pidfd, self._pidfd = self._pidfd, -1
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await wait_readable(pidfd)
        finally:
            os.close(pidfd)

    async def hang_up(self, *, patience_sec: float) -> None:
        """Close the socket and let the supervisor clean up behind itself; kill it when that takes too long."""
        if self._transport is not None:
            self._transport.close()
        if self._pidfd >= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wait_readable(self._pidfd), patience_sec)
        await self.kill()

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(BoxLost(why))
        if self._transport is not None:
            self._transport.close()


async def wait_readable(fd: int) -> None:
    """Until ``fd`` can be read; for a pidfd: until the process has ended."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def greet(connection: socket.socket, *, timeout_sec: float) -> tuple[Channel, dict[str, Any], list[int]]:
    """Receive a new box's first message: its channel, what it says, and descriptors beyond its own pid's.

    Takes ``connection`` over. Raises ``TrialError(ENV_SETUP_FAILED)`` with what the box says went wrong.
    """
    connection.setblocking(False)
    descriptors: list[int] = []
    try:
        await asyncio.wait_for(wait_readable(connection.fileno()), timeout_sec)
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 2)
        messages = list(wire.Buffer().feed(data))
        if not messages or "error" in messages[0][0] or not descriptors:
            why = messages[0][0].get("error", "no descriptors") if messages else "it ended at once"
            raise TrialError(Termination.ENV_SETUP_FAILED, f"the sandbox did not start: {why}")
        channel = Channel(descriptors[0])
        factory: Callable[[], Channel] = lambda: channel  # noqa: E731
        await asyncio.get_running_loop().create_unix_connection(factory, sock=connection)
    except BaseException as error:
        for fd in descriptors:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        connection.close()
        if isinstance(error, OSError | TimeoutError | wire.WireError):
            raise TrialError(Termination.ENV_SETUP_FAILED, f"the sandbox did not start: {error!r}") from error
        raise
    return channel, messages[0][0], descriptors[1:]
