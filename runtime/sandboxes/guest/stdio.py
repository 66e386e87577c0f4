"""Standard input and output as one connection: what an engine carries to a host that shares no files with it.

It does not know what is said over it.
"""

from __future__ import annotations

import os


class Stdio:
    """What ``wire`` and the supervisor use of a socket. Takes descriptors 0 and 1 over; no child inherits them."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)  # closed on exec, unlike those that they are made of
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def fileno(self) -> int:
        return self._in

    def recv(self, size: int) -> bytes:
        return os.read(self._in, size)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]
