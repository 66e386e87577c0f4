"""The supervisor of a box without a zygote: process 1 of its own bubblewrap, or an ordinary process.

Its arguments say what to prepare, as JSON, and which descriptor the control socket has, or at which path it listens, or
``-`` for standard input and output.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys

from . import isolate, kernel, seccomp, second, wire
from .stdio import Stdio
from .supervisor import Supervisor
from .zygote import listen


def main() -> None:
    box = json.loads(sys.argv[1])
    sys.path[1:1] = box["python_path"]
    connection = _connect(sys.argv[2])
    if box["lower"]:
        isolate.copy_tree(box["lower"], box["workdir"])
    listener = listen(box["listen"]) if box["listen"] else None
    for name, value in box["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    second_user = second.start() if box["second_user"] else None
    if box["isolated"]:
        isolate.make_logs()
        kernel.drop_capabilities()
        if seccomp.supported():
            seccomp.install()
        kernel.set_dumpable(False)
    else:
        kernel.become_subreaper()
    ready = {"ready": True, "workdir": "copy"}
    tunnel = None
    if isinstance(connection, Stdio):
        wire.send(connection, ready)
        tunnel = socket.socket(fileno=listener) if listener is not None else None
    else:
        descriptors = [os.pidfd_open(os.getpid()), *([listener] if listener is not None else [])]
        socket.send_fds(connection, [wire.encode(ready)], descriptors)
        for fd in descriptors:
            os.close(fd)
    os.chdir(box["workdir"])
    partner = socket.socket(fileno=box["partner"]) if box.get("partner") is not None else None
    Supervisor(connection, tunnel=tunnel, second_user=second_user, partner=partner).serve()
    if not box["isolated"]:
        kill_descendants()
    os._exit(0)


def _connect(where: str) -> socket.socket | Stdio:
    if where == "-":
        return Stdio()
    if where.isdecimal():
        return socket.socket(fileno=int(where))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(where)
    return connection


def kill_descendants() -> None:
    """Daemons included: a subreaper inherits every orphan, so all descendants are reached sooner or later."""
    while children := _children():
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return [int(word) for word in stream.read().split()]
