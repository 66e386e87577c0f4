"""In the place of ``python``, for what ``multiprocessing`` spawns: hands it over to a process that has done its
imports, and stands in for that one, or runs it itself.

Run by its path with the standard library alone: it must start in a few milliseconds. Whatever goes wrong before the
other has taken over, this process becomes the plain interpreter, as if there were nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import NoReturn

PLACE = "LIVERL_AHEAD"
"""Folder of the sockets of those that wait: ``KIND-NUMBER.free``, renamed by who takes it."""
KIND = "LIVERL_AHEAD_KIND"
"""What kind of process is asked for."""
FREE, TAKEN = ".free", ".taken"
PATIENCE_SEC = 120.0
"""For imports that go on when their process is taken."""
HEADER = struct.Struct("!I")
READY, GO = b"r", b"g"
SPAWNED = "--multiprocessing-fork"
"""Python's own mark of what it spawns."""


def take(place: str, kind: str) -> socket.socket | None:
    """A connection to one that waits, or None."""
    try:
        found = sorted(Path(place).glob(f"{kind}-*{FREE}"))
    except OSError:
        return None
    for free in found:
        try:
            taken = free.rename(free.with_suffix(TAKEN))  # of several, one succeeds
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(taken))
        except OSError:
            continue
        return connection
    return None


def hand_over(connection: socket.socket, arguments: list[str]) -> bool:
    """Whether the other goes on in our place."""
    here = sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    files = [number for number in here if number != connection.fileno() and _is_open(number)]
    order = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "files": files,
        "score": Path("/proc/self/oom_score_adj").read_text(encoding="ascii"),
    }
    body = json.dumps(order).encode("utf-8", "surrogateescape")
    connection.settimeout(PATIENCE_SEC)
    socket.send_fds(connection, [HEADER.pack(len(body))], files)
    connection.sendall(body)
    if connection.recv(1) != READY:
        return False
    connection.sendall(GO)
    return True


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def stand_in(connection: socket.socket) -> NoReturn:
    """Be the other to our parent: signals go on to it, and its end is ours. It ends when we do."""
    pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, frame: os.kill(pid, received))
    connection.settimeout(None)
    for held in range(3, 1024):  # a pipe that both hold would not close with the other
        if held != connection.fileno():
            with contextlib.suppress(OSError):
                os.close(held)
    code = connection.recv(1)
    os._exit(code[0] if code else 1)


def main(arguments: list[str]) -> NoReturn:
    place, kind = os.environ.get(PLACE), os.environ.pop(KIND, None)
    # Helpers of multiprocessing's own come this way too.
    while place and kind and SPAWNED in arguments and (connection := take(place, kind)) is not None:
        try:
            handed = hand_over(connection, arguments)
        except OSError:
            handed = False
        if handed:
            stand_in(connection)
        connection.close()
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
