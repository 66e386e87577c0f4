"""How the agent loop talks to engine servers on the same machine: length-prefixed JSON frames over a Unix socket.

A Ray call costs milliseconds of CPU on both sides and another one for routing, which is more than a small model needs
for its reply; a frame costs a tenth. Knows nothing of what is in a frame, but for the experts of a mixture, which are
bytes and so no JSON.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from dataclasses import asdict, replace
from typing import Any

import orjson

from runtime.rollouter.engine import Routing

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 64 << 20


def encode(message: dict[str, Any]) -> bytes:
    body = orjson.dumps(message)
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next frame, or None at the end of the stream. Raises ``ValueError`` on what is no frame."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes")
        message = orjson.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if not isinstance(message, dict):
        raise ValueError("a frame that is no object")
    return message


def routing_out(routing: Routing) -> dict[str, Any]:
    return {**asdict(replace(routing, rows=b"")), "rows": base64.b64encode(routing.rows).decode()}


def routing_in(sent: dict[str, Any]) -> Routing:
    return Routing(**{**sent, "rows": base64.b64decode(sent["rows"]), "shape": tuple(sent["shape"])})
