"""Plain data between two processes that do not trust each other: exact built-in types, as length-prefixed JSON.

What arrives can be built of nothing but None, bool, int, float, complex, str, bytes, list, tuple, dict, set and
frozenset of exactly these types, so no method of the other side's making ever runs here. ``pickle`` and ``marshal``
give no such promise. It does not know what the data mean.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

MAX_MESSAGE = 16 << 20
MAX_DEPTH = 60
MAX_ITEMS = 100_000  # of an iterator, which crosses as its items
_PREFIX = struct.Struct("!I")
_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
_BUILD: dict[str, Any] = {"l": list, "t": tuple, "s": set, "f": frozenset, "i": iter}


class NotPlain(Exception):
    """A value that cannot cross."""


def encode(value: object, *, iterators: bool = False, depth: int = 0) -> Any:
    """JSON data for ``value``. iterators: a generator or iterator crosses as an iterator over its items.

    Raises ``NotPlain``, and whatever an iterator raises.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth > MAX_DEPTH:
        raise NotPlain("nested too deeply")
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *(encode(item, depth=depth + 1) for item in value)]  # type: ignore[attr-defined]
    if kind is dict:
        pairs = value.items()  # type: ignore[attr-defined]
        return ["d", *([encode(key, depth=depth + 1), encode(item, depth=depth + 1)] for key, item in pairs)]
    if kind in (bytes, bytearray):
        return ["b" if kind is bytes else "a", value.hex()]  # type: ignore[attr-defined]
    if kind is complex:
        return ["c", value.real, value.imag]  # type: ignore[attr-defined]
    if iterators and hasattr(kind, "__next__"):
        items = []
        for item in value:  # type: ignore[attr-defined]
            items.append(encode(item, depth=depth + 1))
            if len(items) > MAX_ITEMS:
                raise NotPlain("an iterator without end")
        return ["i", *items]
    raise NotPlain(f"a value of type {kind.__name__}")


def decode(data: Any, depth: int = 0) -> Any:
    """The value. Raises ``NotPlain`` for data that ``encode`` does not make."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    if type(data) is not list or not data or depth > MAX_DEPTH:
        raise NotPlain("malformed data")
    tag, *items = data
    try:
        if tag in _BUILD:
            return _BUILD[tag]([decode(item, depth + 1) for item in items])
        if tag == "d":
            return {decode(key, depth + 1): decode(item, depth + 1) for key, item in items}
        if tag in ("a", "b"):
            return (bytes if tag == "b" else bytearray).fromhex(items[0])
        if tag == "c":
            return complex(float(items[0]), float(items[1]))
    except (TypeError, ValueError, IndexError) as error:
        raise NotPlain(f"malformed data: {error}") from error
    raise NotPlain("malformed data")


def send(connection: socket.socket, message: list[Any]) -> None:
    """Raises ``NotPlain`` for text or numbers that JSON cannot hold, ``OSError``."""
    try:
        text = json.dumps(message).encode()
    except (ValueError, RecursionError) as error:
        raise NotPlain(str(error)) from error
    if len(text) > MAX_MESSAGE:
        raise NotPlain(f"{len(text)} bytes")
    connection.sendall(_PREFIX.pack(len(text)) + text)


def receive(connection: socket.socket) -> list[Any] | None:
    """The next message; None at the end. Raises ``NotPlain`` for what is none, ``OSError``."""
    prefix = _exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    (size,) = _PREFIX.unpack(prefix)
    if size > MAX_MESSAGE:
        raise NotPlain(f"a message of {size} bytes")
    text = _exactly(connection, size)
    if text is None:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"malformed message: {error}") from error
    if type(message) is not list or not message or type(message[0]) is not str:
        raise NotPlain("malformed message")
    return message


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(1 << 18, size - len(parts)))
        if not part:
            return None
        parts += part
    return bytes(parts)
