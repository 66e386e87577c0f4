"""The root of a box that is made of an image: its layers below, memory above, and LiveRL's own files mounted into it.

An image comes from strangers: where it has a link in the place of a folder that something is mounted on, the box is
refused, so that no mount can land elsewhere. ``/opt`` is a mount point itself, because a folder that merely holds mount
points could be renamed, and another one with other programs put in its place. Runs before any untrusted code.
"""

from __future__ import annotations

import os
import stat

from . import kernel, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = "/.root"
_OURS = ("opt/python", "opt/liverl")
_FOLDERS = ("logs", "tests", "solution")
"""Where Harbor's scripts expect folders that are empty at first."""
_MAX_OPTIONS = 4095
_NAME_LENGTH = 26
"""As of ``runtime/oci/types.py``, which a box does not have."""


def mount(box: dict[str, Any]) -> tuple[str, int]:
    """``box``: as of ``isolate.py``, and ``root``: ``store`` (the host folder that the layers lie in) and ``layers``
    (their names, the lowest first). Returns how the work directory was made and a descriptor of ``/proc/sys/user``.
    """
    size = mounts.memory_options(box)
    kernel.mount("tmpfs", mounts.SCRATCH, "tmpfs", mounts.SAFE, f"mode=755,{size}")
    for name in ("root-upper", "root-work"):
        os.mkdir(f"{mounts.SCRATCH}/{name}", 0o755)
    _mount_layers(mounts.HOST + box["root"]["store"], box["root"]["layers"])
    os.chdir(ROOT)
    # Before anything else: nothing that follows may look at what lies below a mount of ours.
    for name in _FOLDERS:
        _folder(name)
        os.mkdir(f"{mounts.SCRATCH}/{name}", 0o755)
        kernel.mount(f"{mounts.SCRATCH}/{name}", f"./{name}", "", kernel.MS_BIND)
    for name in ("agent", "verifier", "artifacts"):
        os.mkdir(f"./logs/{name}", 0o777)
    _folder("opt")
    kernel.mount("./opt", "./opt", "", kernel.MS_BIND)
    for name in _OURS:
        _folder(name)
        kernel.mount(f"/{name}", f"./{name}", "", kernel.MS_BIND | kernel.MS_REC)
    _folder("tmp", mode=0o1777)
    _write_hosts()
    _folder(box["workdir"].strip("/"))
    how = mounts.mount_workdir(
        mounts.HOST + box["lower"], f".{box['workdir']}", scratch=mounts.SCRATCH, lower=mounts.LOWER, copy=box["copy"]
    )
    for source, target in box["mounts"]:
        inner = target.strip("/")
        if os.path.isdir(mounts.HOST + source):
            _folder(inner)
        else:
            _file(inner)
        mounts.mount_read_only(mounts.HOST + source, f"./{inner}")
    _folder("dev")
    kernel.mount("/dev", "./dev", "", kernel.MS_BIND | kernel.MS_REC)
    mounts.mount_devices("./dev", size)
    _folder("proc")
    sysctl = mounts.mount_proc("./proc")
    os.chdir(ROOT)
    kernel.pivot_root()
    return how, sysctl


def _mount_layers(store: str, layers: list[str]) -> None:
    """Names are relative to the store: absolute ones of many layers would not fit into the options of one mount."""
    if not all(len(name) == _NAME_LENGTH and not set(name) - set("0123456789abcdef") for name in layers):
        raise OSError("a layer's name leads out of the store")
    os.chdir(store)
    above = f"upperdir={mounts.SCRATCH}/root-upper,workdir={mounts.SCRATCH}/root-work,userxattr"
    options = f"lowerdir={':'.join(reversed(layers))},{above}"
    if len(options) > _MAX_OPTIONS:
        raise OSError(f"{len(layers)} layers are more than the kernel takes at once")
    kernel.mount("overlay", ROOT, "overlay", mounts.SAFE, options)


def _folder(path: str, *, mode: int = 0o755) -> None:
    """Have a plain folder at ``path`` below the current one."""
    inner = "."
    parts = path.split("/")
    for part in parts:
        inner = f"{inner}/{part}"
        try:
            kind = os.lstat(inner).st_mode
        except FileNotFoundError:
            os.mkdir(inner, 0o755)
            os.chmod(inner, mode if part == parts[-1] else 0o755)
            continue
        if not stat.S_ISDIR(kind):
            raise OSError(f"the image has {inner[1:]}, which is no folder, where a box needs one")


def _file(path: str) -> None:
    above, _, _ = path.rpartition("/")
    if above:
        _folder(above)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(f"the image has /{path}, which is no file, where a box needs one")
    except FileNotFoundError:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))


def _write_hosts() -> None:
    """Names of this machine alone. Images hold none, for engines bring the file."""
    _folder("etc")
    try:
        os.unlink("etc/hosts")
    except FileNotFoundError:
        pass
    with open("etc/hosts", "x") as stream:
        stream.write("127.0.0.1 localhost sandbox\n::1 localhost\n")
