"""The host's end of a box's tunnel (``guest/tunnel.py``): every stream becomes a connection to one address.

What comes from the box is data from untrusted code: numbers, sizes and counts are bounded, and nothing else than the
one address can be reached, whatever it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from runtime.sandboxes.channel import Channel
from runtime.sandboxes.guest.tunnel import MAX_STREAMS

MAX_UNSENT = 64 << 20
"""Bytes for a target that does not read."""


class Tunnel:
    """Serves the streams of ``channel`` until ``close``."""

    def __init__(self, channel: Channel, target: tuple[str, int]) -> None:
        self._channel = channel
        self._target = target
        self._streams: dict[int, _Outside] = {}

    def message(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        number, event = header.get("stream"), header.get("event")
        if type(number) is not int:
            return
        stream = self._streams.get(number)
        if event == "open" and stream is None and len(self._streams) < MAX_STREAMS:
            self._streams[number] = _Outside(self, number, self._target)
        elif stream is not None:
            stream.take(str(event), b"".join(blobs))

    def send(self, number: int, event: str, data: bytes = b"") -> None:
        self._channel.post({"op": "stream", "stream": number, "event": event}, (data,) if data else ())

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    def close(self) -> None:
        """Idempotent; cuts what is still open."""
        for stream in list(self._streams.values()):
            stream.abort()
        self._streams.clear()


class _Outside(asyncio.Protocol):
    """One connection to the target."""

    def __init__(self, tunnel: Tunnel, number: int, target: tuple[str, int]) -> None:
        self._tunnel = tunnel
        self._number = number
        self._transport: asyncio.Transport | None = None
        self._early: list[tuple[str, bytes]] = []
        self._unsent = 0
        self._dialling = asyncio.get_running_loop().create_task(self._dial(target))

    async def _dial(self, target: tuple[str, int]) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *target)
        except OSError:
            self._over()  # the agent sees a closed connection and retries

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        for event, data in self._early:
            self.take(event, data)
        self._early.clear()

    def take(self, event: str, data: bytes) -> None:
        if self._transport is None:
            self._early.append((event, data))
            self._unsent += len(data)
            if self._unsent > MAX_UNSENT or len(self._early) > MAX_UNSENT >> 10:
                self.abort()
        elif event == "data":
            self._transport.write(data)
            if self._transport.get_write_buffer_size() > MAX_UNSENT:
                self.abort()
        elif event == "end" and not self._transport.is_closing():
            self._transport.write_eof()
        elif event == "closed":
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._tunnel.send(self._number, "data", data)

    def eof_received(self) -> bool:
        self._tunnel.send(self._number, "end")
        return True  # half-closed: the box's client may still be writing

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def abort(self) -> None:
        self._dialling.cancel()
        if self._transport is not None:
            self._transport.abort()
        else:
            self._over()

    def _over(self) -> None:
        self._tunnel.forget(self._number)
        self._tunnel.send(self._number, "closed")
