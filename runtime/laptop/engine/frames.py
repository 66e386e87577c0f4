"""How the agent loop talks to engine servers on the same machine: length-prefixed JSON frames over a Unix socket.

A Ray call costs milliseconds of CPU on both sides and another one for routing, which is more than a small model needs
for its reply; a frame costs a tenth. Knows nothing of what is in a frame.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import orjson

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
