"""Bounds on connections, for a port that any box can reach: how many there are, and how long and large a request's head
may be before it shows a key.

uvicorn has no such bounds for the parser used here. Knows nothing of routes, keys or bodies.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.config import Proxy as ProxyConfig

_RESERVED_FILES = 200
"""Descriptors that the rest of the process needs: engines, journals, boxes."""
_FILES = 3
"""Descriptors of one connection: its own, and two of the forwarder of a box on this machine."""
_FRAMING = 8
"""Bytes of framing that one byte of a chunked body may cost."""


class Connections:
    """The open connections of one server, and those that wait for a next request in the order of their waiting."""

    def __init__(self, config: ProxyConfig) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = (
            config.max_connections if files == resource.RLIM_INFINITY else max(16, (files - _RESERVED_FILES) // _FILES)
        )
        self.limit = min(config.max_connections, room)
        self.limit_per_address = config.max_connections_per_address
        self.head_bytes = config.max_head_kib << 10
        self.head_sec = config.head_timeout_sec
        self.retry_after = config.retry_after_sec
        self.refused = 0
        self.open = 0
        self._by_address: Counter[str] = Counter()
        self._idle: dict[BoundedProtocol, None] = {}

    def admit(self, address: str | None) -> bool:
        """Whether one more connection may be opened; closes the one that has waited longest where that makes room."""
        if self.open >= self.limit and self._idle:
            next(iter(self._idle)).end()
        if self.open >= self.limit or (
            address is not None and self._by_address[address] >= self.limit_per_address and not _is_own(address)
        ):
            self.refused += 1
            return False
        self.open += 1
        if address is not None:
            self._by_address[address] += 1
        return True

    def left(self, address: str | None) -> None:
        self.open -= 1
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def waits(self, connection: BoundedProtocol, waits: bool) -> None:
        if waits:
            self._idle[connection] = None
        else:
            self._idle.pop(connection, None)

    def protocol(self) -> Any:
        """What uvicorn's ``http`` setting takes."""
        return partial(BoundedProtocol, bounds=self)


def _is_own(address: str) -> bool:
    """All boxes of this machine have the same address; their forwarders bound them one by one."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end for heads that do not end."""

    def __init__(self, *args: Any, bounds: Connections, **more: Any) -> None:
        super().__init__(*args, **more)
        self._bounds = bounds
        self._admitted = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._outside_body = 0
        self._allowed = bounds.head_bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._admitted = self._bounds.admit(self._address)
        if not self._admitted:
            self._refuse(b"503 Service Unavailable", "too many connections are open; come back later")
            return
        self._head_timer = self.loop.call_later(self._bounds.head_sec, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._bounds.waits(self, False)
        if self._admitted:
            self._admitted = False
            self._bounds.left(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._admitted or self.transport.is_closing():
            return
        self._bounds.waits(self, False)
        self._outside_body += len(data)
        super().data_received(data)
        if self._outside_body > self._allowed and not self.transport.is_closing():
            self._refuse(
                b"431 Request Header Fields Too Large", f"a head has more than {self._bounds.head_bytes} bytes"
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._allowed = self._bounds.head_bytes
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._bounds.head_sec, self._too_slow)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._outside_body -= len(body)
        self._allowed += _FRAMING * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # What follows in the same packet is another request's.
        self._outside_body = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body and self._head_timer is None:
            # Refused before its body was there. What still comes is thrown away, so that the client, which may be
            # sending, sees the answer and no broken connection; but not for ever.
            self._head_timer = self.loop.call_later(self._bounds.head_sec, self.transport.close)
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            self._bounds.waits(self, True)

    def end(self) -> None:
        """Close a connection that waits for its next request."""
        self._bounds.waits(self, False)
        if self._admitted:
            self._admitted = False
            self._bounds.left(self._address)
        self.transport.close()

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", f"a head took longer than {self._bounds.head_sec:g} seconds")

    def _refuse(self, status: bytes, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            body = message.encode()
            head = b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (
                status,
                len(body),
            )
            wait = b"retry-after: %d\r\nconnection: close\r\n\r\n" % self._bounds.retry_after
            self.transport.write(head + wait + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
