"""The fork server inside bubblewrap: makes a fresh box per order without starting an interpreter.

It keeps capabilities within bubblewrap's user namespace and therefore never runs untrusted code. Orders arrive on the
sequenced-packet socket named by the last argument: one JSON packet each, with the box's own control socket attached.
The first message of a box on that socket says ``ready`` and carries descriptors: the box's pid and, if asked for, a
listener.

Untrusted code can read the memory that its process was forked with. So this process never holds anything of a task: an
order is received by the child that carries it out, and by nobody before.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

from . import isolate, kernel, wire
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DESCRIPTORS = 16
_ACCOUNTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def main() -> None:
    setup = json.loads(sys.argv[1])
    sys.path[1:1] = setup["python_path"]
    for name in setup["preload"]:
        importlib.import_module(name)
    for path, text in _ACCOUNTS.items():
        isolate.make_mount_point(path, folder=False)
        with open(path, "w") as stream:
            stream.write(text)
    for path in isolate.MOUNT_POINTS:
        isolate.make_mount_point(path, folder=True)
    os.symlink("/tmp", "/var/tmp")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the boxes
    control = socket.socket(fileno=int(sys.argv[2]))
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    gc.collect()
    gc.freeze()  # children share these pages as long as the collector leaves them alone
    control.send(b"ready")
    while True:
        if any(events & ~select.POLLIN for _, events in poll.poll()):
            os._exit(0)  # the host hung up; every box dies with this pid namespace
        taken, taking = os.pipe()
        try:
            kernel.unshare(kernel.CLONE_NEWPID)
            pid = os.fork()
        except OSError as error:
            _refuse(control, f"fork: {error}")
        else:
            if pid == 0:
                os.close(taken)
                os.close(own_pids)
                _take(control, taking)
        os.close(taking)
        os.read(taken, 1)  # nothing comes but the end, once the child has the order
        os.close(taken)
        kernel.setns(own_pids, kernel.CLONE_NEWPID)


def _refuse(control: socket.socket, why: str) -> None:
    """Answer an order that nobody can be forked for; but for its first byte it is not even read."""
    _, descriptors, _, _ = socket.recv_fds(control, 1, MAX_DESCRIPTORS)
    with socket.socket(fileno=descriptors[0]) as connection:
        wire.send(connection, {"error": why})
    for fd in descriptors[1:]:
        os.close(fd)


def _take(control: socket.socket, taking: int) -> None:
    """Process 1 of a new pid namespace: receive one order and carry it out; never returns."""
    code = 1
    try:
        order, descriptors, _, _ = socket.recv_fds(control, wire.MAX_ORDER, MAX_DESCRIPTORS)
        control.close()
        os.close(taking)
        if not order:
            os._exit(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=descriptors[0]) as connection:
            box = json.loads(order)
            if "compile" in box:
                _compile(connection, box, descriptors[1])
            else:
                _box(connection, box, descriptors[1:])
        code = 0
    finally:
        os._exit(code)


def _compile(connection: socket.socket, order: dict[str, Any], target: int) -> None:
    """Leave in ``target`` what the Python files of a host folder compile to; no code of the folder runs."""
    warm = importlib.import_module("testkit.warm")
    try:
        content = warm.compile_tree(
            isolate.HOST + order["compile"], order["workdir"], rewrite="_pytest" in sys.modules and order["rewrite"]
        )
        with open(target, "wb") as stream:
            stream.write(content)
        wire.send(connection, {"ready": True})
    except (OSError, MemoryError, ValueError) as error:
        wire.send(connection, {"error": f"{type(error).__name__}: {error}"})


def _box(connection: socket.socket, box: dict[str, Any], compiled: list[int]) -> None:
    """compiled: files of ``_compile`` for what this box will hold; last the socket to its partner, if it has one."""
    try:
        partner = socket.socket(fileno=compiled.pop()) if box["partner"] else None
        for fd in compiled:
            importlib.import_module("testkit.warm").attach(fd)
            os.close(fd)
        how, second_user = isolate.isolate(box)
        descriptors = [os.pidfd_open(os.getpid())]
        if box["listen"]:
            descriptors.append(listen(box["listen"]))
        socket.send_fds(connection, [wire.encode({"ready": True, "workdir": how})], descriptors)
        for fd in descriptors:
            os.close(fd)
        os.chdir(box["workdir"])
        Supervisor(connection, second_user=second_user, partner=partner).serve()
    except Exception as error:
        try:
            wire.send(connection, {"error": f"{type(error).__name__}: {error}"})
        except OSError:
            pass  # the host is gone
        raise


def listen(port: int) -> int:
    """A socket that belongs to the box's network namespace and is served by whoever holds it: the host."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener.detach()
