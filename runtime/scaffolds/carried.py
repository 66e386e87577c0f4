"""Programs of published agents that run in any image, of another libc or none: each copy names a loader of ours, which
lies beside it with the libraries that it needs.

Nothing in a copy moves: the loader's name is written over the former one, because some programs carry a payload that
they look for at the end of themselves (Claude Code, OpenCode), and would lose it to tools that lay a file out anew. In
the loader the folders that it searches are written over by another spelling of ours, of equal length, and so is the
name of the system's cache, so that no library of the image is taken for one of ours. No variable is needed, and the
agent's commands inherit none. It knows no agent.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.errors import MachineError
from runtime.oci.types import Image
from runtime.sandboxes.base import AGENT, Mount
from runtime.sandboxes.bwrap import IMAGE_PATH

LIBRARIES = f"{AGENT}/lib"
"""Where boxes show the libraries and the loader."""
SHELL = f"{AGENT}/shell/bash"
"""Where they show a bash, for agents that run their commands in no other shell."""
WITH_BASH = (
    f"for s in /bin/bash /usr/bin/bash /usr/local/bin/bash {SHELL}; do "
    '[ -x "$s" ] && export SHELL="$s" && break; done; exec "$0" "$@"'
)
"""For ``sh -c``: a program with the image's bash as its shell, or else ours."""
_LOADER = "ld.so"
_VERSION = 1
_PT_INTERP = 3
_SEARCHED = re.compile(rb"/(?:usr/)?lib[0-9a-z_-]*(?:/[0-9a-z_-]+-linux-gnu[a-z0-9]*)?/(?=\0)")
_CACHE = b"\0/etc/ld.so.cache\0"
_FOUND = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)


class Unfit(Exception):
    """Why a program cannot be carried."""


def carried(name: str, programs: Sequence[Path], *, cache: Path, users: Iterable[Path] = ()) -> Path:
    """A folder with ``bin`` (copies of the programs) and ``lib``, made once below ``cache``. users: what else needs
    libraries, such as compiled modules of Python. Blocks. Raises ``MachineError``."""
    marks = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in programs]
    digest = hashlib.sha256("\n".join([str(_VERSION), *marks]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-carried-{digest}"
    if folder.is_dir():
        return folder
    try:
        with (cache / f".{name}-carried.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=cache) as temporary:
                    made = Path(temporary) / "made"
                    _fill(made, programs, users)
                    made.rename(folder)
        return folder
    except (OSError, Unfit, subprocess.SubprocessError) as error:
        raise MachineError(
            f"agent {name} cannot be made to run in images of another libc: {error}",
            fix=f"run on a glibc system such as Debian, with ldd and free space below {cache}",
        ) from error


def bash() -> list[Path]:
    """This machine's, if it has one."""
    found = shutil.which("bash")
    return [Path(found).resolve()] if found is not None else []


def path(image: Image) -> str:
    """For agents that look for a bash on their path: the image's, with ours at its end."""
    return f"{dict(image.env).get('PATH', IMAGE_PATH)}:{AGENT}/shell"


def mounts(folder: Path) -> tuple[Mount, ...]:
    """Of the libraries of ``carried``, and of its bash if that is among the programs."""
    shell = folder / "bin" / "bash"
    return (Mount(folder / "lib", LIBRARIES), *((Mount(shell, SHELL),) if shell.exists() else ()))


def _fill(folder: Path, programs: Sequence[Path], users: Iterable[Path]) -> None:
    for part in ("bin", "lib"):
        (folder / part).mkdir(parents=True)
    loaders = set()
    for path in programs:
        copy = folder / "bin" / path.name
        shutil.copyfile(path, copy)  # by reference, where the file system can
        copy.chmod(0o755)
        loader = name_loader(copy, f"{LIBRARIES}/{_LOADER}")
        if loader is not None:
            loaders.add(Path(loader).resolve())
    if not loaders:
        return  # static programs alone
    if len(loaders) > 1:
        raise Unfit(f"the programs need several loaders: {', '.join(sorted(map(str, loaders)))}")
    for name, library in _needed([*programs, *users]).items():
        shutil.copyfile(library, folder / "lib" / name)
        (folder / "lib" / name).chmod(0o755)
    target = folder / "lib" / _LOADER
    target.write_bytes(searching(loaders.pop().read_bytes(), f"{LIBRARIES}/"))
    target.chmod(0o755)


def name_loader(program: Path, loader: str) -> str | None:
    """Write ``loader`` into a program in the place of the one that it names, which is returned; None: it has none, a
    static program or a script. Raises ``Unfit`` for what is no 64-bit program, or has no room."""
    with program.open("r+b") as stream:
        head = stream.read(64)
        if head[:4] != b"\x7fELF":
            return None
        if head[4:6] != b"\x02\x01":
            raise Unfit(f"{program.name} is no 64-bit program of this machine")
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for number in range(count):
            stream.seek(table + number * size)
            entry = stream.read(size)
            (kind,) = struct.unpack_from("<I", entry)
            if kind != _PT_INTERP:
                continue
            (place,) = struct.unpack_from("<Q", entry, 8)
            (room,) = struct.unpack_from("<Q", entry, 32)
            stream.seek(place)
            former = stream.read(room)
            if len(loader) + 1 > room:
                raise Unfit(f"{program.name} has no room for the name of another loader")
            stream.seek(place)
            stream.write(loader.encode().ljust(room, b"\0"))
            return former.rstrip(b"\0").decode()
    return None


def searching(loader: bytes, folder: str) -> bytes:
    """The loader, searching ``folder`` in the place of the system's folders and without the system's cache. Raises
    ``Unfit``."""

    def spelled(found: re.Match[bytes]) -> bytes:
        room = len(found[0])
        if len(folder) > room:
            return found[0]  # /lib/: what is there is found only after what is in ours
        above, _, last = folder.rstrip("/").rpartition("/")
        return f"{above}/{'/' * (room - len(folder))}{last}/".encode()

    changed = _SEARCHED.sub(spelled, loader)
    if changed == loader or changed.count(_CACHE) != 1:
        raise Unfit("this machine's loader searches no folder whose name has room for another")
    return changed.replace(_CACHE, f"\0{AGENT}/cache\0".encode())


def _needed(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for start in range(0, len(files), 200):
        names = list(map(str, files[start : start + 200]))
        done = subprocess.run(["ldd", *names], capture_output=True, text=True, timeout=300, check=False)
        found |= {name: Path(path) for name, path in _FOUND.findall(done.stdout)}
    return found
