"""One command started by the supervisor: its pipes, its deadline, and what came out of it.

It knows nothing of the host; the supervisor polls the descriptors that a command names.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from . import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


MAX_READS = 64  # of 64 KiB at a time, before the supervisor looks at anything else


class Command:
    """A child process in its own session; it has ended when the process itself has exited.

    A background process that it left behind may hold the pipes open: they are drained on, into nothing, so that it
    neither hangs the command nor dies of a broken pipe.
    """

    def __init__(self, request: dict[str, Any], stdin: bytes) -> None:
        """Raises ``BlockingIOError`` where the box has used up its processes."""
        self.id = request["id"]
        self.deadline = time.monotonic() + request["timeout"]
        self.timed_out = False
        self.exit_code: int | None = None
        self._limit = request["max_output"]
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        source = _stdin(stdin)
        try:
            self.pid = os.fork()
        except OSError:
            for fd in (source, out_r, out_w, err_r, err_w):
                os.close(fd)
            raise
        if self.pid == 0:
            try:
                os.setsid()
                for target, fd in enumerate((source, out_w, err_w)):
                    os.dup2(fd, target)
                _exec(request)
            except BaseException as error:
                os.write(2, f"{error}\n".encode(errors="replace"))
            finally:
                os._exit(127)
        for fd in (source, out_w, err_w):
            os.close(fd)
        self.streams = {out_r: bytearray(), err_r: bytearray()}
        self._order = (out_r, err_r)
        for fd in self._order:
            os.set_blocking(fd, False)

    def pump(self, fd: int) -> bool:
        """Read what ``fd`` holds; False once nobody can write to it any more."""
        buffer = self.streams[fd]
        for _ in range(MAX_READS):
            try:
                part = os.read(fd, 65536)
            except BlockingIOError:
                return True
            if not part:
                return False
            if self.exit_code is None and len(buffer) < self._limit:
                buffer += part[: self._limit - len(buffer)]
            if len(part) < 65536:
                return True
        return True

    def kill(self) -> None:
        self.timed_out = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def ended(self, status: int, open_pipes: set[int]) -> list[bytes]:
        """The process has exited: its standard output and error, as far as they were written by then."""
        for fd in self._order:
            if fd in open_pipes:
                self.pump(fd)
        self.exit_code = os.waitstatus_to_exitcode(status)
        return [bytes(self.streams[fd]) for fd in self._order]


def _stdin(content: bytes) -> int:
    if not content:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("stdin")
    with open(fd, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _exec(request: dict[str, Any]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # what Python ignores or handles, exec would pass on
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, 1 << 20)
    if request["argv"][0] == "python3" and program.FOLDER in sys.path and os.path.exists(program.PYTHON):
        # Only LiveRL's own programs are started so: an image's python3 is a stranger's, whatever it is.
        request = {**request, "argv": [program.PYTHON, *request["argv"][1:]]}
    place = program.find(request["argv"], request["env"])
    if place is not None:
        program.run(request["argv"], place, request["env"], request["cwd"])
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        os.write(2, f"{request['cwd']}: {error.strerror}\n".encode())
        os._exit(126)
    try:
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except OSError as error:
        os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)
