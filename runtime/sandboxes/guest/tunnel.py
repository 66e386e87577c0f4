"""The box's end of the only way out where the host cannot hold a listener of the box: connections as messages.

What connects to the listener becomes a numbered stream of messages over the supervisor's own connection. Nothing here
waits for anybody: a reader that does not read loses its stream. It does not know where the streams lead.
"""

from __future__ import annotations

import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

MAX_STREAMS = 256
MAX_UNSENT = 16 << 20  # bytes for a client that does not read


class Tunnel:
    """``send`` takes a message's header and blobs; ``poll`` is the supervisor's."""

    def __init__(
        self, listener: socket.socket, poll: select.poll, send: Callable[[dict[str, Any], Sequence[bytes]], None]
    ) -> None:
        self._listener = listener
        self._poll = poll
        self._send = send
        self._streams: dict[int, _Stream] = {}
        self._numbers: dict[int, int] = {}  # by descriptor
        self._next = 0
        listener.setblocking(False)
        poll.register(listener.fileno(), select.POLLIN)

    def owns(self, fd: int) -> bool:
        return fd == self._listener.fileno() or fd in self._numbers

    def ready(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
            return
        number = self._numbers[fd]
        stream = self._streams[number]
        if stream.heard_end and events & (select.POLLHUP | select.POLLERR):
            self._close(number, stream)
            return
        if events & select.POLLOUT:
            self._flush(number, stream)
        if number in self._streams and not stream.heard_end and events & ~select.POLLOUT:
            self._read(number, stream)

    def message(self, number: int, event: str, data: bytes) -> None:
        """From the host: ``data``, ``end`` (no more of it) or ``closed``."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if event == "closed":
            stream.closing = True
        elif event == "end":
            stream.ending = True
        else:
            stream.unsent += data
            if len(stream.unsent) > MAX_UNSENT:
                self._close(number, stream)
                return
        self._flush(number, stream)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._streams) >= MAX_STREAMS:
            connection.close()
            return
        connection.setblocking(False)
        self._next += 1
        self._streams[self._next] = _Stream(connection)
        self._numbers[connection.fileno()] = self._next
        self._poll.register(connection.fileno(), select.POLLIN)
        self._send({"stream": self._next, "event": "open"}, ())

    def _read(self, number: int, stream: _Stream) -> None:
        try:
            data = stream.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._close(number, stream)
            return
        if data:
            self._send({"stream": number, "event": "data"}, (data,))
            return
        stream.heard_end = True
        self._send({"stream": number, "event": "end"}, ())
        self._watch(stream)
        self._settle(number, stream)

    def _flush(self, number: int, stream: _Stream) -> None:
        try:
            while stream.unsent:
                del stream.unsent[: stream.connection.send(stream.unsent[: 1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            self._close(number, stream)
            return
        self._watch(stream)
        self._settle(number, stream)

    def _settle(self, number: int, stream: _Stream) -> None:
        """End what is over in one direction or in both."""
        if stream.unsent:
            return
        if stream.closing or (stream.ending and stream.heard_end):
            self._close(number, stream)
        elif stream.ending and not stream.said_end:
            stream.said_end = True
            try:
                stream.connection.shutdown(socket.SHUT_WR)
            except OSError:
                self._close(number, stream)

    def _watch(self, stream: _Stream) -> None:
        events = (0 if stream.heard_end else select.POLLIN) | (select.POLLOUT if stream.unsent else 0)
        self._poll.modify(stream.connection.fileno(), events)

    def _close(self, number: int, stream: _Stream) -> None:
        self._poll.unregister(stream.connection.fileno())
        del self._streams[number], self._numbers[stream.connection.fileno()]
        stream.connection.close()
        self._send({"stream": number, "event": "closed"}, ())


class _Stream:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unsent = bytearray()
        self.ending = self.closing = self.heard_end = self.said_end = False
