"""The command line of bubblewrap: what of the host a box sees, and the check whether this machine can run it at all.

Inside are the system's programs and libraries, Python at ``/opt/python`` and LiveRL's guest programs at
``/opt/liverl``; nothing of the host's homes, secrets or checkouts. It does not know when boxes start.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.sandboxes.programs import PROGRAMS

PYTHON = "/opt/python/bin/python3"
LIVERL = "/opt/liverl"
IMAGE = "/opt/image"
PATH = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSTALL = "apt-get install -y bubblewrap"

_BOOT = "import sys; sys.path.insert(0, {folder!r}); from guest import {module}; {module}.main()"
_LINKED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types")
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
_SELF = ("--uid", "0", "--gid", "0", "--hostname", "sandbox")


def _interpreter() -> dict[str, str]:
    """A shared libpython is looked for where the host has it, or else a system's one of another version is taken."""
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and not sys.base_prefix.startswith("/usr"):
        return {"LD_LIBRARY_PATH": "/opt/python/lib"}
    return {}


def image_environment(workdir: str, image: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """What every command inside gets, where the box is made of an image with variables of its own."""
    ours = {"LIVERL_WORKDIR": workdir, "LIVERL_MOUNT": LIVERL}
    return {"PATH": IMAGE_PATH, "HOME": "/root", **image, **ours, **extra}


def environment(workdir: str, extra: Mapping[str, str]) -> dict[str, str]:
    """What every command inside gets."""
    return {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LIVERL_WORKDIR": workdir,
        "LIVERL_MOUNT": LIVERL,
        **_interpreter(),
        **extra,
    }


def root_arguments() -> list[str]:
    """A minimal read-only view of the host with Python and the guest programs."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("opt", "opt/liverl", "etc"):
        arguments += ["--perms", "0755", "--dir", f"/{name}"]
    for name in _LINKED:
        path = Path("/") / name
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    arguments += _python(Path(sys.base_prefix))
    for name, folder in PROGRAMS.items():
        arguments += ["--ro-bind", str(folder), f"{LIVERL}/{name}"]
    return arguments


def _python(prefix: Path) -> list[str]:
    """Python itself, and nothing that happens to be installed beside it on this host: a box has the packages of its
    image, on every machine and in every phase. Their programs name the host's paths, so they are not there either."""
    program = (prefix / "bin" / "python3").resolve()
    arguments = ["--ro-bind", str(prefix), "/opt/python", "--tmpfs", "/opt/python/bin"]
    arguments += ["--ro-bind", str(program), f"/opt/python/bin/{program.name}"]
    for name in sorted({"python", "python3"} - {program.name}):
        arguments += ["--symlink", program.name, f"/opt/python/bin/{name}"]
    covered = ["/opt/python/bin"]
    for root, inside in ((Path("/usr"), "/usr"), (prefix, "/opt/python")):
        for folder in (*root.glob("lib/python3*/*-packages"), *root.glob("local/lib/python3*/*-packages")):
            covered.append(f"{inside}/{folder.relative_to(root)}")
            arguments += ["--tmpfs", covered[-1]]
    return [*arguments, *(word for place in covered for word in ("--remount-ro", place))]


def bare_root(python: Path) -> list[str]:
    """Nothing of the host but what boxes of other images need: a Python that brings all it needs
    (``guest_python.py``), and the guest programs."""
    arguments = [word for name in ("opt", "opt/liverl", "etc") for word in ("--perms", "0755", "--dir", f"/{name}")]
    arguments += ["--ro-bind", str(python), "/opt/python"]
    for name, folder in PROGRAMS.items():
        arguments += ["--ro-bind", str(folder), f"{LIVERL}/{name}"]
    return arguments


def command(
    arguments: Sequence[str],
    program: Sequence[str],
    *,
    writable_root: bool = False,
    users: int | None = None,
    python: Path | None = None,
) -> list[str]:
    """bubblewrap with namespaces of its own around ``program`` (arguments of Python).

    writable_root: leave the (empty, in memory) root folder writable, for mount points that are made later. users:
    descriptor of the user namespace to use (``userns.py``); None: one of its own with one user. python: show this one,
    and no other file of the host's system.
    """
    interpreter = _interpreter() if python is None else {}
    variables = {"PATH": PATH, "PYTHONHASHSEED": "0", "LANG": "C.UTF-8", **interpreter}
    return [
        _executable() or "bwrap",
        *(("--unshare-user",) if users is None else ("--userns", str(users))),
        *_NAMESPACES,
        *_SELF,
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        *(root_arguments() if python is None else bare_root(python)),
        *arguments,
        # Without the second, the host's root could turn the kernel's switches: bubblewrap covers them only where the
        # folder itself is writable.
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"),
        *(() if writable_root else ("--remount-ro", "/")),
        *("--clearenv", *(word for item in variables.items() for word in ("--setenv", *item))),
        *("--chdir", "/", PYTHON, "-P", "-s", "-S", "-B"),
        *program,
    ]


def program(module: str, argument: str, *, folder: str = LIVERL) -> list[str]:
    """Arguments of Python that start a guest program, of which the number of its control descriptor is the last."""
    return ["-c", _BOOT.format(folder=folder, module=module), argument]


@functools.cache
def why_impossible() -> str | None:
    """None if bubblewrap works here, else what it said."""
    if _executable() is None:
        return "the program bwrap is not installed"
    try:
        subprocess.run(
            command([], ["-c", "pass"]), check=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError as error:
        return str(error.stderr.decode(errors="replace").strip() or f"bwrap ended with {error.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap: {error}"
    return None


def _executable() -> str | None:
    return shutil.which("bwrap")
