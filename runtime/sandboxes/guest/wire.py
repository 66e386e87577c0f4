"""Messages between the host and a box: a JSON header and binary blobs, length-prefixed, over a stream socket.

Both sides bound what they accept; what a box says after untrusted code ran in it is data, never trusted further.
It does not know what the messages mean.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # typing costs 5 ms to import
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .stdio import Stdio

PREFIX = struct.Struct("!II")  # bytes of the header, bytes of all blobs
MAX_HEADER = 4 << 20
MAX_BLOBS = 256 << 20
MAX_ORDER = 1 << 17  # bytes of a packet to the zygote


class WireError(Exception):
    """The other side sent what the protocol does not allow."""


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    return b"".join((PREFIX.pack(len(text), sum(map(len, blobs))), text, *blobs))


def decode(text: bytes, data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and blobs of one message. Raises ``WireError``."""
    try:
        header = json.loads(text)
        sizes = header.pop("sizes")
        blobs, start = [], 0
        for size in sizes:
            if type(size) is not int or size < 0:
                raise ValueError("bad size")
            blobs.append(data[start : start + size])
            start += size
        if start != len(data):
            raise ValueError("sizes do not add up")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"bad message: {error}") from error
    return header, blobs


def lengths(prefix: bytes) -> tuple[int, int]:
    header, blobs = PREFIX.unpack(prefix)
    if header > MAX_HEADER or blobs > MAX_BLOBS:
        raise WireError(f"message of {header} + {blobs} bytes is over the limit")
    return header, blobs


class Buffer:
    """Bytes received so far; yields the messages that are complete."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
        self._data += data
        while len(self._data) >= PREFIX.size:
            header, blobs = lengths(bytes(self._data[: PREFIX.size]))
            middle, end = PREFIX.size + header, PREFIX.size + header + blobs
            if len(self._data) < end:
                return
            message = decode(bytes(self._data[PREFIX.size : middle]), bytes(self._data[middle:end]))
            del self._data[:end]
            yield message


def send(connection: socket.socket | Stdio, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    connection.sendall(encode(header, blobs))
