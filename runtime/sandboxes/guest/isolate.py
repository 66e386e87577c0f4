"""Turns a child of the zygote into process 1 of a fresh box: own namespaces, own files, no capabilities.

Runs before any untrusted code. The caller holds capabilities within bubblewrap's user namespace only, never on the
host. It does not know what will run in the box.
"""

from __future__ import annotations

import os
import resource

from . import image_root, kernel, seccomp, second
from .mounts import (
    HOST,
    LOWER,
    READ_ONLY,
    SAFE,
    SCRATCH,
    copy_tree,
    make_mount_point,
    memory_options,
    mount_devices,
    mount_proc,
    mount_read_only,
    mount_workdir,
)

__all__ = ["HOST", "LOGS", "MEMORY_FOLDERS", "MOUNT_POINTS", "copy_tree", "isolate", "make_logs", "make_mount_point"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

MOUNT_POINTS = (HOST, LOWER, SCRATCH, image_root.ROOT, "/tmp", "/root", "/logs", "/run", "/var", "/opt/liverl")
MEMORY_FOLDERS = ("/root", "/logs", "/run", "/tests", "/solution")
"""Writable, of the box alone. Scripts of Harbor's tasks write beside themselves."""
LOGS = ("/logs/agent", "/logs/verifier", "/logs/artifacts")
"""Folders that Harbor's agents and tests find in their box."""


def isolate(box: dict[str, Any]) -> tuple[str, socket.socket | None]:
    """Build the box, of the host's files or of the layers of ``box["root"]`` (``image_root.py``), and drop every
    capability. Returns how the work directory was made, and the way to the box's second user, if it has one."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    if box.get("root") is None:
        how, sysctl = _mount_host(box)
    else:
        how, sysctl = image_root.mount(box)
    return how, _give_up(box, sysctl)


def _mount_host(box: dict[str, Any]) -> tuple[str, int]:
    """Returns how the work directory was made, ``overlay`` or ``copy``, and a descriptor of ``/proc/sys/user``.

    ``box``: ``lower`` (host folder), ``copy`` (not to overlay it), ``workdir``, ``mounts`` ([host path, path inside]
    pairs), ``size_mib`` of each memory file system, ``limits`` (resource name -> value), ``second_user``.
    """
    size = memory_options(box)
    kernel.mount("tmpfs", "/tmp", "tmpfs", SAFE, f"mode=1777,{size}")
    kernel.mount("tmpfs", SCRATCH, "tmpfs", SAFE, f"mode=755,{size}")
    for target in MEMORY_FOLDERS:
        make_mount_point(target, folder=True)
        os.mkdir(SCRATCH + target, 0o755)
        kernel.mount(SCRATCH + target, target, "", kernel.MS_BIND)
    make_logs()
    how = mount_workdir(HOST + box["lower"], box["workdir"], scratch=SCRATCH, lower=LOWER, copy=box["copy"])
    for source, target in box["mounts"]:
        make_mount_point(target, folder=os.path.isdir(HOST + source))
        mount_read_only(HOST + source, target)
    kernel.umount(SCRATCH)
    kernel.umount(HOST)
    sysctl = mount_proc("/proc")
    mount_devices("/dev", size)
    kernel.mount("", "/", "", READ_ONLY | SAFE)
    return how, sysctl


def _give_up(box: dict[str, Any], sysctl: int) -> socket.socket | None:
    """Drop every capability; the way to the box's second user, if it has one (``second.py``)."""
    kernel.loopback_up()
    _enter_user_namespace(sysctl, second_user=box["second_user"])
    for name, value in box["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    control = second.start(memory_options(box)) if box["second_user"] else None
    kernel.drop_capabilities()
    if seccomp.supported():
        seccomp.install()
    kernel.set_dumpable(False)
    return control


def make_logs() -> None:
    for folder in LOGS:
        os.makedirs(folder, exist_ok=True)


def _enter_user_namespace(sysctl: int, *, second_user: bool) -> None:
    """A user namespace of the box's own (keyrings, process counts), in which no further one can be made."""
    user, group = os.getuid(), os.getgid()
    if second_user:
        _unshare_with_two_users()
    else:
        kernel.unshare(kernel.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(text)
    fd = os.open("max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC, dir_fd=sysctl)
    os.write(fd, b"0")
    os.close(fd)
    os.close(sysctl)


def _unshare_with_two_users() -> None:
    """Only a process that stays outside, with rights there, may map more than its own user: a child does it for us."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(writer)
            os.read(reader, 1)
            for kind in ("uid", "gid"):
                with open(f"/proc/{os.getppid()}/{kind}_map", "w") as stream:
                    stream.write(f"0 0 1\n{second.USER} {second.USER} 1\n")
            code = 0
        finally:
            os._exit(code)
    os.close(reader)
    kernel.unshare(kernel.CLONE_NEWUSER)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError("the second user cannot be mapped")
