"""What a box of a task's own image is told over a backend that only runs commands: this program is that command.

It stands in for the shell and the tools of other remote boxes (``remote_shell.py`` on the host), for the image may have
none. Its input is an order, JSON of known length, and the order's own input: not every protocol can say that standard
input has ended. It knows neither host nor backend.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

NAME = b"liverl"
"""An argument of every program of ours in such a box, by which the end of a command spares it."""
CUT = 125
"""Exit code: the input was cut on its way, nothing was done."""


def main() -> None:
    what, *arguments = sys.argv[2:]
    if what == "wait":
        wait()
    if what == "kill":
        kill(arguments[0], alone=bool(arguments[1]))
        return
    size, max_output, total = map(int, arguments)
    data = _exactly(total)
    if data is None:
        print("input cut", file=sys.stderr)
        sys.exit(CUT)
    import json

    order = json.loads(data[:size])
    operation: Callable[[dict[str, Any], bytes, int], int] = OPERATIONS[order["op"]]
    sys.exit(operation(order, data[size:], max_output))


def wait() -> None:
    """The box's first process: until it is told to end; what orphans leave it takes in."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        signal.pause()


def _exactly(size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(0, min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def run(order: dict[str, Any], stdin: bytes, max_output: int) -> int:
    """One command; it has ended when its process has. A daemon that it left keeps its files open, and nobody waits."""
    from . import commands

    with _scratch() as given, _scratch() as out, _scratch() as err:
        _write(given.fileno(), stdin)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                for target, stream in enumerate((given, out, err)):
                    os.dup2(stream.fileno(), target)
                commands._exec(order)
            except BaseException as error:
                os.write(2, f"{error}\n".encode(errors="replace"))
            finally:
                os._exit(127)
        _, status = os.waitpid(pid, 0)
        for fd, stream in ((1, out), (2, err)):
            stream.seek(0)
            _write(fd, stream.read(max_output))
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _scratch() -> BinaryIO:
    """A file without a name, on the box's disk: of an image that has no ``/tmp`` too."""
    os.makedirs("/tmp", mode=0o1777, exist_ok=True)
    path = f"/tmp/.liverl-{os.urandom(8).hex()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return open(fd, "r+b", buffering=0)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def kill(mark: str, *, alone: bool) -> None:
    """Every process of one command. What emptied its environment has no mark, but is an orphan once its parents are
    killed: in a box whose processes are all ours (``alone``) such ones go too, but for programs of ours."""
    for _ in range(20):
        found = [pid for pid in _processes() if _is_of(pid, mark.encode(), alone)]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            yield int(name)


def _is_of(pid: int, mark: bytes, alone: bool) -> bool:
    try:
        marks = [word for word in _read(pid, "environ").split(b"\0") if word.startswith(b"LIVERL_COMMAND=")]
    except OSError:
        marks = []
    if mark in marks:
        return True
    if marks or not alone:
        return False
    try:
        fields = dict(line.split(b":", 1) for line in _read(pid, "status").splitlines() if b":" in line)
        orphan = fields[b"PPid"].strip() == b"1" and not fields[b"State"].strip().startswith(b"Z")
        return orphan and NAME not in _read(pid, "cmdline").split(b"\0")
    except (OSError, KeyError, ValueError):
        return False


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as stream:
        return stream.read()


# Files.


def unpack(order: dict[str, Any], data: bytes, max_output: int) -> int:
    _unpack(io.BytesIO(data), order["root"])
    return 0


def part(order: dict[str, Any], data: bytes, max_output: int) -> int:
    os.makedirs(os.path.dirname(order["name"]), exist_ok=True)
    with open(order["name"], "wb") as stream:
        stream.write(data)
    return 0 if len(data) == order["size"] else CUT


def join(order: dict[str, Any], data: bytes, max_output: int) -> int:
    import shutil

    folder = order["folder"]
    if not os.path.isdir(folder):
        return 0  # it was done, and the answer lost
    with open(f"{folder}/all", "wb") as whole:
        for number in range(order["count"]):
            with open(f"{folder}/{number}", "rb") as one:
                shutil.copyfileobj(one, whole, 1 << 20)
    with open(f"{folder}/all", "rb") as whole:
        _unpack(whole, order["root"], packed=order["packed"])
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _unpack(stream: BinaryIO | io.BytesIO, root: str, *, packed: bool = False) -> None:
    """An archive of the host's below ``root``; a link or file in the place of a file is replaced, never written
    through."""
    import tarfile

    from . import files

    with tarfile.open(fileobj=stream, mode="r:gz" if packed else "r:") as archive:
        for member in archive:
            path = f"{root.rstrip('/')}/{member.name.lstrip('/')}"
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            elif member.issym():
                os.makedirs(os.path.dirname(path), exist_ok=True)
                files.remove(path)
                os.symlink(member.linkname, path)
            elif member.isreg():
                content = archive.extractfile(member)
                files.write(path, content.read() if content is not None else b"", member.mode & 0o777)


def pack(order: dict[str, Any], data: bytes, max_output: int) -> int:
    """Archive what exists of ``paths``; of what is known (path -> mark, the order's input) only what is so no more, and
    the names of what is gone (``gone``). Its first bytes are printed, the rest waits in ``file``, its size is the last
    line of the errors."""
    import tarfile

    from . import files

    limit = order["limit"]
    try:
        known = None
        if order["gone"]:
            import json

            known = json.loads(data)
        found = files.tree(order["paths"], order["max_bytes"], known)
    except files.Refused:
        os.write(2, f"{limit + 1}\n".encode())
        return 0
    if known is not None:
        gone = [path for path, (kind, _) in found.items() if kind == "-"]
        found = {path: one for path, one in found.items() if one[0] != "-"} | {
            order["gone"]: ("f", json.dumps(gone).encode())
        }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, (kind, content) in found.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mode = 0o755 if kind in "xd" else 0o644
            if kind == "l":
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(content)
                archive.addfile(member)
            elif kind == "d":
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    whole = stream.getvalue() if found else b""
    first = order["first"]
    if len(whole) > first:
        with open(order["file"], "wb") as rest:
            rest.write(whole)
    _write(1, whole[:first])
    os.write(2, f"{len(whole)}\n".encode())
    return 0


def rest(order: dict[str, Any], data: bytes, max_output: int) -> int:
    with open(order["file"], "rb") as stream:
        stream.seek(order["start"])
        _write(1, stream.read(order["size"]))
    return 0


def remove(order: dict[str, Any], data: bytes, max_output: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(order["file"])
    return 0


def erase(order: dict[str, Any], data: bytes, max_output: int) -> int:
    """Whatever is there; an error where it stays."""
    import shutil

    for path in order["paths"]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    return 0


def folders(order: dict[str, Any], data: bytes, max_output: int) -> int:
    for path in order["folders"]:
        os.makedirs(path, exist_ok=True)
    return 0


OPERATIONS = {
    **{"run": run, "unpack": unpack, "part": part, "join": join, "pack": pack},
    **{"rest": rest, "remove": remove, "folders": folders, "erase": erase},
}
