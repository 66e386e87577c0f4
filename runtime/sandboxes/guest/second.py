"""A second user of a box: one process that starts test runs' solution processes, forked before rights are dropped.

The supervisor has no capability and could not become another user; this process became one while it still could. It
takes orders from the supervisor alone: one packet each, JSON with a socket attached that the new process serves.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket

from . import kernel, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USER = 1000
MAX_ORDER = 1 << 16


def start() -> socket.socket:
    """Fork the process; the end of its socket that is the supervisor's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return ours
    code = 1
    try:
        os.dup2(theirs.fileno(), 3)
        os.closerange(4, 1 << 20)  # the host's socket above all
        null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):  # where the host is spoken to by standard input and output
            os.dup2(null, target)
        become()
        _serve(socket.socket(fileno=3))
        code = 0
    finally:
        os._exit(code)


def become() -> None:
    """Give up the first user for good, and every capability with it."""
    kernel.drop_bounding_set()
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    kernel.drop_capabilities()
    if seccomp.supported():
        seccomp.install()
    kernel.set_dumpable(False)


def _serve(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, MAX_ORDER, 1)
        if not packet:
            return
        if os.fork() == 0:
            try:
                os.setsid()
                _become_solution(descriptors[0], json.loads(packet))
            finally:
                os._exit(1)
        for fd in descriptors:
            os.close(fd)


def _become_solution(fd: int, order: dict[str, Any]) -> None:
    os.dup2(fd, 3)
    os.closerange(4, 1 << 20)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    solution = importlib.import_module("testkit.solution")
    solution.start(socket.socket(fileno=3), order["root"], order["folders"])


def order(control: socket.socket, *, root: str, folders: list[str]) -> socket.socket:
    """A new solution process; the returned socket speaks to it (``testkit/plain.py``). Raises ``OSError``."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [json.dumps({"root": root, "folders": folders}).encode()], [theirs.fileno()])
    return ours
