"""Turns a child of the zygote into process 1 of a fresh box: own namespaces, own files, no capabilities.

Runs before any untrusted code. The caller holds capabilities within bubblewrap's user namespace only, never on the
host. It does not know what will run in the box.
"""

from __future__ import annotations

import os
import resource

from . import kernel, seccomp, second

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

HOST = "/.host"  # the host's files, read-only: visible to the zygote, gone from every box
_LOWER = "/.lower"
_SCRATCH = "/.scratch"
MOUNT_POINTS = (HOST, _LOWER, _SCRATCH, "/tmp", "/root", "/logs", "/run", "/var", "/opt/liverl")
MEMORY_FOLDERS = ("/root", "/logs", "/run", "/tests", "/solution")
"""Writable, of the box alone. Scripts of Harbor's tasks write beside themselves."""
LOGS = ("/logs/agent", "/logs/verifier", "/logs/artifacts")
"""Folders that Harbor's agents and tests find in their box."""

_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV
_READ_ONLY = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
_PROC_COVERED = ("sys", "sysrq-trigger", "irq", "bus", "fs")


def isolate(box: dict[str, Any]) -> tuple[str, socket.socket | None]:
    """Build the box and drop every capability. Returns how the work directory was made, ``overlay`` or ``copy``, and
    the way to the box's second user, if it has one (``second.py``).

    ``box``: ``lower`` (host folder), ``copy`` (not to overlay it), ``workdir``, ``mounts`` ([host path, path inside]
    pairs), ``size_mib`` of each memory file system, ``limits`` (resource name -> value), ``second_user``.
    """
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Names cost the kernel memory that no limit of an ordinary user's box counts.
    size = f"size={int(box['size_mib'])}m,nr_inodes={max(1 << 14, 128 * int(box['size_mib']))}"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _SAFE, f"mode=1777,{size}")
    kernel.mount("tmpfs", _SCRATCH, "tmpfs", _SAFE, f"mode=755,{size}")
    for target in MEMORY_FOLDERS:
        make_mount_point(target, folder=True)
        os.mkdir(_SCRATCH + target, 0o755)
        kernel.mount(_SCRATCH + target, target, "", kernel.MS_BIND)
    make_logs()
    how = _mount_workdir(box["lower"], box["workdir"], copy=box["copy"])
    for source, target in box["mounts"]:
        _mount_read_only(HOST + source, target)
    kernel.umount(_SCRATCH)
    kernel.umount(HOST)
    sysctl = _mount_proc()
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", _SAFE, f"mode=1777,{size}")
    kernel.mount("devpts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666")
    kernel.mount("", "/dev", "", _READ_ONLY | kernel.MS_NOSUID)
    kernel.mount("", "/", "", _READ_ONLY | _SAFE)
    kernel.loopback_up()
    _enter_user_namespace(sysctl, second_user=box["second_user"])
    for name, value in box["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    control = second.start() if box["second_user"] else None
    kernel.drop_capabilities()
    if seccomp.supported():
        seccomp.install()
    kernel.set_dumpable(False)
    return how, control


def make_logs() -> None:
    for folder in LOGS:
        os.makedirs(folder, exist_ok=True)


def make_mount_point(target: str, *, folder: bool) -> None:
    """All boxes share the root file system, each with a read-only view in the end: only empty nodes are made here."""
    if folder:
        os.makedirs(target, exist_ok=True)
    elif not os.path.isfile(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _mount_workdir(lower: str, workdir: str, *, copy: bool) -> str:
    make_mount_point(workdir, folder=True)
    kernel.mount(HOST + lower, _LOWER, "", kernel.MS_BIND)  # a fixed path: option strings cannot hold every name
    for name in ("upper", "work", "copy"):
        os.mkdir(f"{_SCRATCH}/{name}", 0o755)
    layers = f"lowerdir={_LOWER},upperdir={_SCRATCH}/upper,workdir={_SCRATCH}/work,userxattr"
    how = "copy" if copy else "overlay"
    if not copy:
        try:
            kernel.mount("overlay", workdir, "overlay", _SAFE, layers)
        except OSError:  # kernels before 5.11, and file systems that overlayfs cannot stand on
            how = "copy"
    if how == "copy":
        copy_tree(_LOWER, f"{_SCRATCH}/copy")
        kernel.mount(f"{_SCRATCH}/copy", workdir, "", kernel.MS_BIND)
    kernel.umount(_LOWER)
    return how


def copy_tree(source: str, target: str) -> None:
    """Copy the pristine folder; links are copied as links. Only for files that no untrusted code has touched."""
    with os.scandir(source) as entries:
        for entry in entries:
            inner = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), inner)
            elif entry.is_dir():
                os.mkdir(inner)
                copy_tree(entry.path, inner)
            elif entry.is_file():
                with open(entry.path, "rb") as reader, open(inner, "wb") as writer:
                    writer.write(reader.read())
                status = entry.stat()
                os.chmod(inner, status.st_mode & 0o777 | 0o200)  # a root without capabilities needs leave to write
                os.utime(inner, ns=(status.st_atime_ns, status.st_mtime_ns))


def _mount_read_only(source: str, target: str) -> None:
    make_mount_point(target, folder=os.path.isdir(source))
    kernel.mount(source, target, "", kernel.MS_BIND)
    kernel.mount("", target, "", _READ_ONLY | _SAFE)


def _mount_proc() -> int:
    """A /proc of the new pid namespace whose switches are read-only; returns a descriptor of its sys/user folder.

    Files below /proc/sys ask for the owner, not for a capability: as the host's root they could be written.
    """
    kernel.mount("proc", "/proc", "proc", _SAFE | kernel.MS_NOEXEC)
    sysctl = os.open("/proc/sys/user", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in _PROC_COVERED:
        path = f"/proc/{name}"
        if os.path.exists(path):
            kernel.mount(path, path, "", kernel.MS_BIND)
            kernel.mount("", path, "", _READ_ONLY | _SAFE | kernel.MS_NOEXEC)
    return sysctl


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
