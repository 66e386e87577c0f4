"""Mounts that every kind of box is made of: the work directory over memory, read-only files, /proc and /dev.

Runs before any untrusted code, with capabilities within bubblewrap's user namespace only.
"""

from __future__ import annotations

import itertools
import os

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOST = "/.host"  # the host's files, read-only: visible to the zygote, gone from every box
LOWER = "/.lower"
SCRATCH = "/.scratch"
SAFE = kernel.MS_NOSUID | kernel.MS_NODEV
READ_ONLY = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
_MAX_OPENED = 1000
"""So many folders of a work directory are opened to a second user; further ones stay closed to him."""
_PROC_COVERED = ("sys", "sysrq-trigger", "irq", "bus", "fs")


def memory_options(box: dict[str, Any]) -> str:
    """Names cost the kernel memory that no limit of an ordinary user's box counts."""
    return f"size={int(box['size_mib'])}m,nr_inodes={max(1 << 14, 128 * int(box['size_mib']))}"


def mount_devices(dev: str, size: str) -> None:
    kernel.mount("tmpfs", f"{dev}/shm", "tmpfs", SAFE, f"mode=1777,{size}")
    kernel.mount("devpts", f"{dev}/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666")
    kernel.mount("", dev, "", READ_ONLY | kernel.MS_NOSUID)


def make_mount_point(target: str, *, folder: bool) -> None:
    """All boxes share the root file system, each with a read-only view in the end: only empty nodes are made here."""
    if folder:
        os.makedirs(target, exist_ok=True)
    elif not os.path.isfile(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def mount_workdir(source: str, workdir: str, *, scratch: str, lower: str, copy: bool) -> str:
    """Show ``source`` at ``workdir``, to be written in the memory at ``scratch``. lower: a mount point with a plain
    name, which option strings can hold."""
    if not workdir.startswith("./"):
        make_mount_point(workdir, folder=True)
    kernel.mount(source, lower, "", kernel.MS_BIND)
    for name in ("upper", "work", "copy"):
        os.mkdir(f"{scratch}/{name}", 0o755)
    layers = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work,userxattr"
    how = "copy" if copy else "overlay"
    if not copy:
        try:
            kernel.mount("overlay", workdir, "overlay", SAFE, layers)
        except OSError:  # kernels before 5.11, and file systems that overlayfs cannot stand on
            how = "copy"
    if how == "copy":
        copy_tree(lower, f"{scratch}/copy")
        kernel.mount(f"{scratch}/copy", workdir, "", kernel.MS_BIND)
    kernel.umount(lower)
    return how


def mount_private_view(folder: str, size: str) -> bool:
    """For this process and its children alone: ``folder`` with all its folders everybody's to write, in memory of their
    own, whatever becomes of it there. False where the kernel does not let it be so: it stays as it is."""
    if os.path.samefile(folder, "/"):  # what is mounted there nobody would see
        return False
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        lower = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        kernel.mount("tmpfs", folder, "tmpfs", SAFE, f"mode=755,{size}")
    except OSError:
        return False
    os.chdir(folder)
    before = os.umask(0)
    os.mkdir("work", 0o755)
    # Folders that the upper layer has already are merged with those below them, without the cost of opening each.
    below = f"/proc/self/fd/{lower}"
    for inner, _, _ in itertools.islice(os.walk(f"{below}/"), _MAX_OPENED):
        os.mkdir(f"upper{inner[len(below) :]}", 0o777)
    os.umask(before)
    try:
        kernel.mount("overlay", folder, "overlay", SAFE, f"lowerdir={below},upperdir=upper,workdir=work,userxattr")
    except OSError:  # too many of them above each other, or a mount of another owner within the folder
        os.chdir("/")
        kernel.umount(folder)
        return False
    finally:
        os.close(lower)
    os.chdir("/")
    return True


def copy_tree(source: str, target: str) -> None:
    """Copy the pristine folder; links are copied as links. Only for files that no untrusted code has touched."""
    with os.scandir(source) as entries:
        for entry in entries:
            inner = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), inner)
            elif entry.is_dir():
                os.makedirs(inner, exist_ok=True)  # a volume of an image may be mounted there, empty
                copy_tree(entry.path, inner)
            elif entry.is_file():
                with open(entry.path, "rb") as reader, open(inner, "wb") as writer:
                    writer.write(reader.read())
                status = entry.stat()
                os.chmod(inner, status.st_mode & 0o777 | 0o200)  # a root without capabilities needs leave to write
                os.utime(inner, ns=(status.st_atime_ns, status.st_mtime_ns))


def mount_read_only(source: str, target: str) -> None:
    kernel.mount(source, target, "", kernel.MS_BIND)
    kernel.mount("", target, "", READ_ONLY | SAFE)


def mount_proc(target: str) -> int:
    """A /proc of the new pid namespace whose switches are read-only; returns a descriptor of its sys/user folder.

    Files below /proc/sys ask for the owner, not for a capability: as the host's root they could be written.
    """
    kernel.mount("proc", target, "proc", SAFE | kernel.MS_NOEXEC)
    sysctl = os.open(f"{target}/sys/user", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in _PROC_COVERED:
        path = f"{target}/{name}"
        if os.path.exists(path):
            kernel.mount(path, path, "", kernel.MS_BIND)
            kernel.mount("", path, "", READ_ONLY | SAFE | kernel.MS_NOEXEC)
    return sysctl
