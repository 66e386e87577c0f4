"""The fork server inside bubblewrap: makes a fresh box per order without starting an interpreter.

It keeps capabilities within bubblewrap's user namespace and therefore never runs untrusted code. Orders arrive on the
sequenced-packet socket named by the last argument: one JSON packet each, with the box's own control socket attached.
The first message of a box on that socket says ``ready`` and carries descriptors: the box's pid and, if asked for, a
listener.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys

from . import isolate, kernel, program, wire
from .supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ACCOUNTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def main() -> None:
    setup = json.loads(sys.argv[1])
    sys.path[1:1] = setup["python_path"]
    warm = importlib.import_module("testkit.warm")
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
    gc.collect()
    gc.freeze()  # children share these pages as long as the collector leaves them alone
    control.send(b"ready")
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, wire.MAX_ORDER, 1)
        if not order:
            os._exit(0)  # the host hung up; every box dies with this pid namespace
        with socket.socket(fileno=descriptors[0]) as connection:
            box = json.loads(order)
            if box["warm"]:
                warm.warm(isolate.HOST + box["lower"], box["workdir"], rewrite="_pytest" in sys.modules)
                for source, target in box["mounts"]:
                    if target.startswith(program.FOLDER + "/"):
                        warm.warm(isolate.HOST + source, target, rewrite=False)
                gc.freeze()
            try:
                kernel.unshare(kernel.CLONE_NEWPID)
                pid = os.fork()
            except OSError as error:
                wire.send(connection, {"error": f"fork: {error}"})
                continue
            if pid == 0:
                control.close()
                os.close(own_pids)
                _box(connection, box)
            kernel.setns(own_pids, kernel.CLONE_NEWPID)


def _box(connection: socket.socket, box: dict[str, Any]) -> None:
    """Process 1 of the new pid namespace; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        how, second_user = isolate.isolate(box)
        descriptors = [os.pidfd_open(os.getpid())]
        if box["listen"]:
            descriptors.append(listen(box["listen"]))
        socket.send_fds(connection, [wire.encode({"ready": True, "workdir": how})], descriptors)
        for fd in descriptors:
            os.close(fd)
        os.chdir(box["workdir"])
        Supervisor(connection, second_user=second_user).serve()
        code = 0
    except Exception as error:
        try:
            wire.send(connection, {"error": f"{type(error).__name__}: {error}"})
        except OSError:
            pass  # the host is gone
    finally:
        os._exit(code)


def listen(port: int) -> int:
    """A socket that belongs to the box's network namespace and is served by whoever holds it: the host."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener.detach()
